"""A net and the settings of its training in; out, whether some steps that were cut in two end in the very bits of those that were not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ModelSpec
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.checkpoints.manager import cpu_copy
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DataLoader
from provenlm.training.loop import train_steps
from provenlm.training.run import build_callbacks
from provenlm.training.step import StepResult

NUM_STEPS, RESUME_STEP = 5, 2


@dataclass(frozen=True)
class TrainingCase:
    """What is trained: `build()` makes the net, from torch's current generator, on the CPU."""

    spec: ModelSpec
    build: Callable[[], nn.Module]
    dataloader: DataLoader
    config: TrainConfig


@dataclass(frozen=True)
class ResumeRun:
    """`losses` are the terms of the steps after the cut, `state` all that there is after the last."""

    losses: list[Mapping[str, float]]
    state: Checkpoint


def run_with_and_without_resume(
    case: TrainingCase, folder: Path, load: Callable[[Path], Checkpoint]
) -> tuple[ResumeRun, ResumeRun]:
    """(never stopped, stopped after CUT steps and taken up by a net built anew from what `read` finds in `folder`)."""
    uninterrupted = _start_training(case, None, 1)
    for step in islice(uninterrupted, RESUME_STEP):
        if step.number == RESUME_STEP:
            checkpoint.save_checkpoint(folder, step.snapshot(), {})
    expected = _collect(uninterrupted, NUM_STEPS - RESUME_STEP)
    return expected, _collect(_start_training(case, load(folder), 2), NUM_STEPS - RESUME_STEP)


def _start_training(case: TrainingCase, resume: Checkpoint | None, seed: int) -> Any:
    """`seed` is another for the net that is taken up: whatever does not come from the checkpoint differs."""
    rng_state.seed_all(seed)
    model = case.build()
    objectives = case.spec.objectives(model, IGNORE)
    callbacks = build_callbacks(case.config, objectives[0].eval_term)
    return train_steps(model, objectives, case.dataloader, callbacks, case.config, resume, lambda: None)


def _collect(steps: Any, count: int) -> ResumeRun:
    results: list[StepResult] = []
    for step in islice(steps, count):
        results.append(step)
        state = step.snapshot()
    return ResumeRun([step.terms for step in results], cpu_copy(state))


def find_mismatches(expected: ResumeRun, actual: ResumeRun) -> list[str]:
    """What is not the same in both, by name, to the last bit."""
    names = [
        f"loss of step {RESUME_STEP + n}" for n, (a, b) in enumerate(zip(expected.losses, actual.losses, strict=True), 1) if a != b
    ]
    for file in expected.state.state_dicts:
        expected_tensors, actual_tensors = expected.state.state_dicts[file], actual.state.state_dicts[file]
        names += [
            f"{file}/{name}"
            for name in sorted(expected_tensors.keys() | actual_tensors.keys())
            if not _equal(expected_tensors.get(name), actual_tensors.get(name))
        ]
    keys = sorted(expected.state.metadata.keys() | actual.state.metadata.keys())
    return names + [name for name in keys if expected.state.metadata.get(name) != actual.state.metadata.get(name)]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)


def record_resume_metrics(metrics: MetricRecorder, case: TrainingCase, folder: Path, load: Callable[[Path], Checkpoint]) -> None:
    """Rehearse, and say what differed."""
    expected, actual = run_with_and_without_resume(case, folder, load)
    mismatches = find_mismatches(expected, actual)
    tensors = sum(len(state_dict) for state_dict in expected.state.state_dicts.values())
    metrics.add_count("steps", NUM_STEPS, "steps", "of the recipe's own training, on a small net of its kind and on the CPU")
    metrics.add_count(
        "cut", RESUME_STEP, "steps", "after these all was dropped, and a net built anew went on from the checkpoint on disk"
    )
    metrics.add_count(
        "compared", tensors, "tensors", "of weights, optimizer and random generators, compared bit by bit after the last step"
    )
    details = f": {', '.join(mismatches[:3])}" if mismatches else ""
    description = f"tensors, losses and other facts that differ from those of a run that was never stopped{details}"
    metrics.add_measurement("differing", len(mismatches), "", description)
