"""A checkpoint of a recipe and a number of steps in; out, the net so many steps later, and what it wrote before and writes after.

The steps are those that the recipe's own training took from there: to the same settings, data and threads belong the same weights.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch

from provenlm.cli import generate, load_model
from provenlm.cli.load_model import RecipeModel
from provenlm.core import config as parameters
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import progress_bar
from provenlm.data import token_dataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.generation import sampling
from provenlm.training.build_model import arrange, fresh
from provenlm.training.checkpoints import checkpoint
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader, resolve_max_steps
from provenlm.training.device import resolve_device
from provenlm.training.loop import train_steps
from provenlm.training.run import build_callbacks
from provenlm.training.step import StepResult

NUM_AVERAGED_STEPS = 10  # steps whose batches' loss is shown as one


def main() -> None:
    """Print loss and completions before and after. Exit 1 with one line on a user's mistake."""
    args, paths = build_parser().parse_args(), ProjectPaths(Path.cwd())
    try:
        if args.to is not None and args.to.exists():
            raise ProvenlmError(f"--to {args.to.as_posix()}: is there already; a new folder would be right")
        recipe_model = load_model.load_recipe_model(paths, args.recipe, args.checkpoint)
        print(f"{load_model.display_path(paths, recipe_model.checkpoint_dir)}, {args.steps} steps further")
        completions_before = complete(recipe_model, args.prompt, args.tokens)
        steps = continue_training(paths, args.recipe, recipe_model, args.steps)
    except ProvenlmError as error:
        sys.exit(f"further {args.recipe}: {error}")
    state = steps[-1].snapshot()
    recipe_model.model.model.load_state_dict(dict(state.state_dicts["model"]))
    print_report(recipe_model, args, steps, completions_before)
    if args.to is not None:
        checkpoint.save_checkpoint(args.to, state, {"net.json": recipe_model.model.metadata.to_json()})
        print(args.to.as_posix())


def print_report(
    recipe_model: RecipeModel, args: argparse.Namespace, steps: Sequence[StepResult], completions_before: Sequence[str]
) -> None:
    """Print how the loss went over `steps` and what each prompt became `before` them and now."""
    eval_term, last_step = recipe_model.model.spec.objectives(recipe_model.model.model, IGNORE)[0].eval_term, steps[-1].number
    losses = [step.terms[eval_term] for step in steps]
    first, final = fmean(losses[:NUM_AVERAGED_STEPS]), fmean(losses[-NUM_AVERAGED_STEPS:])
    print(
        f"training loss, mean of the first and last {min(NUM_AVERAGED_STEPS, len(steps))} steps: {first:.3f} and {final:.3f} nats/token"
    )
    for prompt, completion_before, completion_after in zip(
        args.prompt, completions_before, complete(recipe_model, args.prompt, args.tokens), strict=True
    ):
        print(f"{prompt!r}\n  step {last_step - len(steps)}: {completion_before!r}\n  step {last_step}: {completion_after!r}")


def build_parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(prog="python -m provenlm.cli.continue_training", description=__doc__)
    cli.add_argument("recipe", help="a name below `recipes` in params.yaml")
    cli.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where to go on from, such as models/RECIPE/checkpoints/step-00000080",
    )
    cli.add_argument("--steps", type=int, default=50, metavar="N", help="how many (default: 50)")
    cli.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="to be completed before and after; repeatable")
    cli.add_argument("--tokens", type=int, default=60, metavar="N", help="most tokens of a completion (default: 60)")
    cli.add_argument(
        "--to", type=Path, metavar="FOLDER", help="leave the checkpoint there, for provenlm.cli.generate or for more steps"
    )
    return cli


def complete(recipe_model: RecipeModel, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """What the net adds to each prompt, always with the most probable token."""
    if not prompts:
        return []
    prompt_ids, stop = (
        [generate.encode_prompt(recipe_model, prompt) for prompt in prompts],
        recipe_model.tokenizer.special_tokens.get("eos"),
    )
    continuations = sampling.generate(
        generate.make_cached_logits(recipe_model), prompt_ids, sampling.GREEDY, max_new_tokens, stop, torch.Generator()
    )
    return ["".join(generate.decode_stream(recipe_model, iter(ids))) for ids in continuations]


def continue_training(paths: ProjectPaths, recipe: str, recipe_model: RecipeModel, count: int) -> list[StepResult]:
    """The next `count` steps of the recipe's training. ProvenlmError if it has not so many left, or was made under other settings."""
    params = parameters.load_params(paths.params_yaml)
    tokens = token_dataset.load_token_dataset(paths.corpus_dir(params.entry("recipes", recipe)["corpus"], "tokens"))
    config = replace(resolve_max_steps(params.parse_section("recipes", recipe, "train", TrainConfig), tokens), distributed=None)
    state = checkpoint.load_checkpoint(recipe_model.checkpoint_dir)
    remaining_steps = config.total_steps - state.metadata["step"]
    if not 1 <= count <= remaining_steps:
        raise ProvenlmError(
            f"--steps {count}: from 1 to {remaining_steps} would be right: the training ends after {config.total_steps}"
        )
    torch.set_num_threads(config.threads)
    spec, model_config = recipe_model.model.spec, recipe_model.model.model_config
    model = fresh(spec, model_config, tokens.vocab_size, config.seed).to(resolve_device(config.device))
    arrange(model, config)
    objectives = spec.objectives(model, IGNORE)
    monitors = build_callbacks(config, objectives[0].eval_term)
    steps = train_steps(model, objectives, build_dataloader(tokens, config), monitors, config, state, lambda: None)
    results = []
    with progress_bar(f"further {recipe}", "step", count) as bar:
        for step in islice(steps, count):
            results.append(step)
            bar.update()
    return results


if __name__ == "__main__":
    main()
