"""A net and the settings of its training in; out, whether some steps that were cut in two end in the very bits of those that were not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import Recorder
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Net
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.checkpoints.manager import copied
from provenlm.training.config import Settings
from provenlm.training.dataloader import Batches
from provenlm.training.loop import fit
from provenlm.training.run import monitors_for
from provenlm.training.step import Step

STEPS, CUT = 5, 2


@dataclass(frozen=True)
class Trial:
    """What is trained: `build()` makes the net, from torch's current generator, on the CPU."""

    net: Net
    build: Callable[[], nn.Module]
    batches: Batches
    settings: Settings


@dataclass(frozen=True)
class Rehearsed:
    """`losses` are the terms of the steps after the cut, `state` all that there is after the last."""

    losses: list[Mapping[str, float]]
    state: Checkpoint


def resumed(trial: Trial, folder: Path, read: Callable[[Path], Checkpoint]) -> tuple[Rehearsed, Rehearsed]:
    """(never stopped, stopped after CUT steps and taken up by a net built anew from what `read` finds in `folder`)."""
    straight = _steps(trial, None, 1)
    for step in islice(straight, CUT):
        if step.number == CUT:
            checkpoint.write(folder, step.snapshot(), {})
    whole = _rest(straight, STEPS - CUT)
    return whole, _rest(_steps(trial, read(folder), 2), STEPS - CUT)


def _steps(trial: Trial, resume: Checkpoint | None, seed: int) -> Any:
    """`seed` is another for the net that is taken up: whatever does not come from the checkpoint differs."""
    rng_state.seed_all(seed)
    model = trial.build()
    objectives = trial.net.objectives(model, IGNORE)
    monitors = monitors_for(trial.settings, objectives[0].judge)
    return fit(model, objectives, trial.batches, monitors, trial.settings, resume, lambda: None)


def _rest(steps: Any, count: int) -> Rehearsed:
    taken: list[Step] = []
    for step in islice(steps, count):
        taken.append(step)
        state = step.snapshot()
    return Rehearsed([step.terms for step in taken], copied(state))


def differing(one: Rehearsed, other: Rehearsed) -> list[str]:
    """What is not the same in both, by name, to the last bit."""
    found = [f"loss of step {CUT + n}" for n, (a, b) in enumerate(zip(one.losses, other.losses, strict=True), 1) if a != b]
    for file in one.state.tensors:
        ours, theirs = one.state.tensors[file], other.state.tensors[file]
        found += [f"{file}/{name}" for name in sorted(ours.keys() | theirs.keys()) if not _same(ours.get(name), theirs.get(name))]
    facts = sorted(one.state.facts.keys() | other.state.facts.keys())
    return found + [name for name in facts if one.state.facts.get(name) != other.state.facts.get(name)]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one, other)


def record(figures: Recorder, trial: Trial, folder: Path, read: Callable[[Path], Checkpoint]) -> None:
    """Rehearse, and say what differed."""
    whole, again = resumed(trial, folder, read)
    wrong = differing(whole, again)
    tensors = sum(len(named) for named in whole.state.tensors.values())
    figures.counted("steps", STEPS, "steps", "of the recipe's own training, on a small net of its kind and on the CPU")
    figures.counted("cut", CUT, "steps", "after these all was dropped, and a net built anew went on from the checkpoint on disk")
    figures.counted(
        "compared", tensors, "tensors", "of weights, optimizer and random generators, compared bit by bit after the last step"
    )
    words = f": {', '.join(wrong[:3])}" if wrong else ""
    meaning = f"tensors, losses and other facts that differ from those of a run that was never stopped{words}"
    figures.measured("differing", len(wrong), "", meaning)
