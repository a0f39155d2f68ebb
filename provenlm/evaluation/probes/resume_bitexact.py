"""Test that a resumed training equals an uninterrupted one, bit for bit."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.spec import ModelSpec
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.checkpoints.manager import cpu_copy
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DataLoader
from provenlm.training.distributed.process_group import SINGLE_PROCESS
from provenlm.training.step import StepResult
from provenlm.training.trainer import Trainer

NUM_STEPS, RESUME_STEP = 5, 2


@dataclass(frozen=True)
class TrainingCase:
    """Describe a small training; `build()` makes the model on the CPU.

    `build` initializes from torch's global generator.
    """

    spec: ModelSpec
    build: Callable[[], nn.Module]
    dataloader: DataLoader
    config: TrainConfig


@dataclass(frozen=True)
class ResumeRun:
    """Hold the loss terms after the resume step and the final checkpoint."""

    losses: list[Mapping[str, float]]
    state: Checkpoint


def run_with_and_without_resume(
    case: TrainingCase, folder: Path, load: Callable[[Path], Checkpoint]
) -> tuple[ResumeRun, ResumeRun]:
    """Train once without an interruption and once resumed at `RESUME_STEP`.

    The resumed run uses a newly built model and what `load` reads from `folder`.
    """
    uninterrupted = _start_training(case, None, 1)
    for step in islice(uninterrupted, RESUME_STEP):
        if step.number == RESUME_STEP:
            checkpoint.save_checkpoint(folder, step.snapshot(), {})
    expected = _collect(uninterrupted, NUM_STEPS - RESUME_STEP)
    return expected, _collect(_start_training(case, load(folder), 2), NUM_STEPS - RESUME_STEP)


def _start_training(case: TrainingCase, resume: Checkpoint | None, seed: int) -> Iterator[StepResult]:
    """Start a training; `seed` differs between the runs.

    So everything that does not come from the checkpoint differs.
    """
    rng_state.seed_all(seed)
    return Trainer.assemble(case.spec, case.build(), case.dataloader, case.config, SINGLE_PROCESS).steps(resume)


def _collect(steps: Iterator[StepResult], count: int) -> ResumeRun:
    """Take `count` steps and copy the final state."""
    results: list[StepResult] = []
    for step in islice(steps, count):
        results.append(step)
        state = step.snapshot()
    return ResumeRun([step.terms for step in results], cpu_copy(state))


def find_mismatches(expected: ResumeRun, actual: ResumeRun) -> list[str]:
    """Name everything that differs between two runs in at least one bit."""
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
    """Return whether two tensors exist and have the same type and bits."""
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)


def resume_probe(case: TrainingCase, load: Callable[[Path], Checkpoint]) -> Probe:
    """Return the probe that compares a resumed with an uninterrupted training."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        with TemporaryDirectory() as folder:
            record_resume_metrics(metrics, case, Path(folder) / "checkpoint", load)

    hint = "a resumed training differs from an uninterrupted one: the description of the metric names what differs"
    return Probe(probe, checks={"mismatches": Check("== 0", hint)})


def record_resume_metrics(metrics: MetricRecorder, case: TrainingCase, folder: Path, load: Callable[[Path], Checkpoint]) -> None:
    """Run the test and record what differs."""
    expected, actual = run_with_and_without_resume(case, folder, load)
    mismatches = find_mismatches(expected, actual)
    tensors = sum(len(state_dict) for state_dict in expected.state.state_dicts.values())
    metrics.add_count("steps", NUM_STEPS, "steps", "Steps of the resume test: the recipe's training of a small model on the CPU")
    description = "Step of the resume test after which a new model resumed from the checkpoint on disk"
    metrics.add_count("checkpoint_step", RESUME_STEP, "steps", description)
    description = "Tensors (weights, optimizer and random state) that the resume test compared bit by bit after its last step"
    metrics.add_count("tensors_compared", tensors, "tensors", description)
    details = f": {', '.join(mismatches[:3])}" if mismatches else ""
    description = f"Tensors, losses and other values that differ between a resumed and an uninterrupted training{details}"
    metrics.add_measurement("mismatches", len(mismatches), "", description)
