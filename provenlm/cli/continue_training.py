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
from provenlm.cli.load_model import Trained
from provenlm.core import config as parameters
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.core.progress import progress
from provenlm.data import token_dataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.generation import sampling
from provenlm.training.build_model import arrange, fresh
from provenlm.training.checkpoints import checkpoint
from provenlm.training.config import Settings
from provenlm.training.dataloader import batches_for, in_steps
from provenlm.training.device import device_of
from provenlm.training.loop import fit
from provenlm.training.run import monitors_for
from provenlm.training.step import Step

MEAN = 10  # steps whose batches' loss is shown as one


def main() -> None:
    """Print loss and completions before and after. Exit 1 with one line on a user's mistake."""
    asked, layout = parser().parse_args(), Layout(Path.cwd())
    try:
        if asked.to is not None and asked.to.exists():
            raise UserError(f"--to {asked.to.as_posix()}: is there already; a new folder would be right")
        found = load_model.read(layout, asked.recipe, asked.checkpoint)
        print(f"{load_model.shown(layout, found.folder)}, {asked.steps} steps further")
        before = completions(found, asked.prompt, asked.tokens)
        steps = taken(layout, asked.recipe, found, asked.steps)
    except UserError as error:
        sys.exit(f"further {asked.recipe}: {error}")
    state = steps[-1].snapshot()
    found.net.model.load_state_dict(dict(state.tensors["model"]))
    report(found, asked, steps, before)
    if asked.to is not None:
        checkpoint.write(asked.to, state, {"net.json": found.net.described.to_json()})
        print(asked.to.as_posix())


def report(found: Trained, asked: argparse.Namespace, steps: Sequence[Step], before: Sequence[str]) -> None:
    """Print how the loss went over `steps` and what each prompt became `before` them and now."""
    judge, last = found.net.net.objectives(found.net.model, IGNORE)[0].judge, steps[-1].number
    losses = [step.terms[judge] for step in steps]
    first, final = fmean(losses[:MEAN]), fmean(losses[-MEAN:])
    print(f"training loss, mean of the first and last {min(MEAN, len(steps))} steps: {first:.3f} and {final:.3f} nats/token")
    for prompt, old, new in zip(asked.prompt, before, completions(found, asked.prompt, asked.tokens), strict=True):
        print(f"{prompt!r}\n  step {last - len(steps)}: {old!r}\n  step {last}: {new!r}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m provenlm.cli.continue_training", description=__doc__)
    made.add_argument("recipe", help="a name below `recipes` in params.yaml")
    made.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where to go on from, such as models/RECIPE/checkpoints/step-00000080",
    )
    made.add_argument("--steps", type=int, default=50, metavar="N", help="how many (default: 50)")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="to be completed before and after; repeatable")
    made.add_argument("--tokens", type=int, default=60, metavar="N", help="most tokens of a completion (default: 60)")
    made.add_argument(
        "--to", type=Path, metavar="FOLDER", help="leave the checkpoint there, for provenlm.cli.generate or for more steps"
    )
    return made


def completions(found: Trained, prompts: Sequence[str], most: int) -> list[str]:
    """What the net adds to each prompt, always with the most probable token."""
    if not prompts:
        return []
    rows, stop = [generate.ids_of(found, prompt) for prompt in prompts], found.codec.special.get("eos")
    made = sampling.generate(generate.reader(found), rows, sampling.GREEDY, most, stop, torch.Generator())
    return ["".join(generate.decoded(found, iter(row))) for row in made]


def taken(layout: Layout, recipe: str, found: Trained, count: int) -> list[Step]:
    """The next `count` steps of the recipe's training. UserError if it has not so many left, or was made under other settings."""
    params = parameters.load(layout.params)
    tokens = token_dataset.read(layout.corpus(params.row("recipes", recipe)["corpus"], "tokens"))
    settings = replace(in_steps(params.settings("recipes", recipe, "train", Settings), tokens), parallel=None)
    state = checkpoint.read(found.folder)
    left = settings.total_steps - state.facts["step"]
    if not 1 <= count <= left:
        raise UserError(f"--steps {count}: from 1 to {left} would be right: the training ends after {settings.total_steps}")
    torch.set_num_threads(settings.threads)
    net, shape = found.net.net, found.net.settings
    model = fresh(net, shape, tokens.vocabulary, settings.seed).to(device_of(settings.device))
    arrange(model, settings)
    objectives = net.objectives(model, IGNORE)
    monitors = monitors_for(settings, objectives[0].judge)
    steps = fit(model, objectives, batches_for(tokens, settings), monitors, settings, state, lambda: None)
    made = []
    with progress(f"further {recipe}", "step", count) as bar:
        for step in islice(steps, count):
            made.append(step)
            bar.advance()
    return made


if __name__ == "__main__":
    main()
