"""Continue a recipe's training from a checkpoint for some steps.

Print the loss and completions before and after.

The steps are those of the recipe's own training: equal config, data and thread count give bit-identical weights.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch

from provenlm.cli import generate, load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.cli.prompts import encode_prompt
from provenlm.core import registry
from provenlm.core.config import load_params
from provenlm.core.errors import ConfigError
from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import progress_bar
from provenlm.data import token_dataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.generation import sampling
from provenlm.training.checkpoints import checkpoint
from provenlm.training.config import TrainConfig
from provenlm.training.step import StepResult
from provenlm.training.trainer import Trainer

NUM_AVERAGED_STEPS = 10  # the training loss is printed as a mean over this many steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("recipe", help="name of an entry of `recipes` in params.yaml")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="checkpoint to continue from, such as models/RECIPE/checkpoints/step-00000080",
    )
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="number of steps (default: 50)")
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="complete this prompt before and after; repeatable"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=60, metavar="N", help="maximum number of new tokens for each prompt (default: 60)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write the new checkpoint to this folder, which must not exist"
    )


def main(args: argparse.Namespace) -> int:
    """Continue the training, print loss and completions, and return 0."""
    paths = ProjectPaths(Path.cwd())
    if args.output is not None and args.output.exists():
        raise ConfigError(f"--output: must be a folder that does not exist, got {args.output.as_posix()}")
    recipe_model = load_model.load_recipe_model(paths, args.recipe, args.checkpoint)
    print(f"{load_model.display_path(paths, recipe_model.checkpoint_dir)} plus {args.steps} steps")
    completions_before = complete(recipe_model, args.prompt, args.max_new_tokens)
    steps = continue_training(paths, args.recipe, recipe_model, args.steps)
    state = steps[-1].snapshot()
    recipe_model.model.model.load_state_dict(dict(state.state_dicts["model"]))
    print_report(recipe_model, args, steps, completions_before)
    if args.output is not None:
        checkpoint.save_checkpoint(args.output, state, {checkpoint.METADATA_FILE: recipe_model.model.metadata.to_json()})
        print(args.output.as_posix())
    return 0


def print_report(
    recipe_model: RecipeModel, args: argparse.Namespace, steps: Sequence[StepResult], completions_before: Sequence[str]
) -> None:
    """Print the loss at both ends of `steps`, and the completions before and after."""
    eval_term, last_step = recipe_model.model.spec.objectives(recipe_model.model.model, IGNORE)[0].eval_term, steps[-1].number
    losses = [step.terms[eval_term] for step in steps]
    first, final = fmean(losses[:NUM_AVERAGED_STEPS]), fmean(losses[-NUM_AVERAGED_STEPS:])
    print(
        f"training loss, mean of the first and last {min(NUM_AVERAGED_STEPS, len(steps))} steps: {first:.3f} and {final:.3f} nats/token"
    )
    for prompt, completion_before, completion_after in zip(
        args.prompt, completions_before, complete(recipe_model, args.prompt, args.max_new_tokens), strict=True
    ):
        print(f"{prompt!r}\n  step {last_step - len(steps)}: {completion_before!r}\n  step {last_step}: {completion_after!r}")


def complete(recipe_model: RecipeModel, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Complete each prompt greedily, up to `max_new_tokens` tokens."""
    if not prompts:
        return []
    prompt_ids, stop = (
        [encode_prompt(recipe_model, prompt) for prompt in prompts],
        recipe_model.tokenizer.special_tokens.get("eos"),
    )
    continuations = sampling.generate(
        generate.recipe_logits(recipe_model), prompt_ids, sampling.GREEDY, max_new_tokens, stop, torch.Generator()
    )
    return [recipe_model.tokenizer.describe(ids) for ids in continuations]


def continue_training(paths: ProjectPaths, recipe: str, recipe_model: RecipeModel, count: int) -> list[StepResult]:
    """Run the next `count` steps of the recipe's training.

    Raises ConfigError if fewer steps remain, and CheckpointError if the checkpoint was trained with another config.
    """
    params = load_params(paths.params_yaml)
    tokens = token_dataset.load_token_dataset(paths.corpus_dir(params.entry("recipes", recipe)["corpus"], "tokens"))
    config = replace(params.parse_section("recipes", recipe, "train", TrainConfig), distributed=None)
    domain = registry.load_domain(params.entry("recipes", recipe)["domain"], "tokenize", TokenizeSpec)
    torch.set_num_threads(config.threads)
    trainer = Trainer.create(recipe_model.model.spec, recipe_model.model.model_config, tokens, config, domain_batches=domain)
    state = checkpoint.load_checkpoint(recipe_model.checkpoint_dir)
    remaining_steps = trainer.config.total_steps - state.metadata["step"]
    if not 1 <= count <= remaining_steps:
        raise ConfigError(
            f"--steps: must be 1 to {remaining_steps}, because the training has {trainer.config.total_steps} steps, got {count}"
        )
    results = []
    with progress_bar(f"continue {recipe}", "step", count) as bar:
        for step in islice(trainer.steps(state), count):
            results.append(step)
            bar.update()
    return results
