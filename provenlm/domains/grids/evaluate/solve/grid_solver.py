"""Solve one puzzle with a model of cells trained on its demonstrations.

Lessons are views of demonstrations, as in the joint training; the answer is a vote of views. The functions here run in a worker process
of their own. Shapes: B lessons, T cells.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.domains.grids.content.puzzle import Puzzle
from provenlm.domains.grids.content.symmetries import IDENTITY_COLORS, NUM_SYMMETRIES, draw_colors, fixed_colors
from provenlm.domains.grids.evaluate.adaptation.adapted_model import AdaptedModel, adapted_model
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig, FineTuningConfig
from provenlm.domains.grids.evaluate.adaptation.fine_tuning import FineTuningResult, fine_tune
from provenlm.domains.grids.evaluate.budgets.oom_ladder import TaskPlan, run_with_ladder
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel
from provenlm.domains.grids.evaluate.solve.lessons import hide_test_outputs
from provenlm.domains.grids.evaluate.solving import OutputAttempts, solve_puzzle
from provenlm.domains.grids.evaluate.submission import attempts_json, fallback_attempts
from provenlm.domains.grids.tokenize.augmentation import apply_colors, apply_symmetries
from provenlm.domains.grids.tokenize.grid_batches import IGNORE, CellSequence, GridBatch, make_batch

PRELOADED_MODULES = ("torch._dynamo", "peft.tuners.lora", "provenlm.domains.grids.evaluate.solve.grid_solver")  # by the fork server
TASK_EMBEDDING = "embed_tasks"
TRAINING_FRAC = 0.8  # of the time of a task; the rest is for the vote


@dataclass(frozen=True)
class GridSolverConfig:
    """Configure lessons, training and prediction of a puzzle.

    `fine_tuning.batch_size` is the number of views in a step. `symmetries`, `permute_colors` and `in_place` are those of the training.
    """

    adapter: AdapterConfig = field(default_factory=lambda: adapter_config("lora", rank=16, alpha=16.0))
    fine_tuning: FineTuningConfig = field(default_factory=lambda: FineTuningConfig(40, 16, 2e-3))
    num_views: int = 64
    symmetries: tuple[int, ...] = tuple(range(NUM_SYMMETRIES))
    permute_colors: bool = True
    in_place: bool = True
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class GridTask:
    """Hold what a worker needs for one puzzle: its hidden outputs are None.

    `number` is that of its task embedding. `load_model()` returns the model; it must be a function of a module, or a partial of one.
    """

    puzzle: Puzzle
    number: int
    config: GridSolverConfig
    load_model: Callable[[], nn.Module]


def adapter_config(method: Any, rank: int, alpha: float) -> AdapterConfig:
    """Return what a task trains: with adapters the task embedding as well."""
    trained_modules = (TASK_EMBEDDING,) if method == "lora" else ()
    return AdapterConfig(method, rank=rank, alpha=alpha, trained_modules=trained_modules)


def save_model(model: nn.Module, path: Path) -> None:
    """Write a model for `load_saved_model`.

    Workers read a file, because tensors sent to them would share memory with this process.
    """
    torch.save(model, path)


def load_saved_model(path: Path, device: str = "cpu") -> nn.Module:
    """Read a model of `save_model`, a file of this run and of nobody else."""
    model: nn.Module = torch.load(path, map_location=device, weights_only=False)
    return model


class GridLessons:
    """Hold views of the demonstrations of a puzzle; test pairs are never read.

    Demonstrations come in turn, each time under another symmetry and permutation of colours.
    """

    def __init__(self, puzzle: Puzzle, task: int, config: GridSolverConfig) -> None:
        self._pairs = [
            CellSequence.create(
                task, pair.input, pair.output, pair.output.shape, in_place=config.in_place and puzzle.has_same_sizes
            )
            for pair in puzzle.train
            if pair.output is not None
        ]
        generator = rng.make_rng(config.seed, "lessons", puzzle.collection, puzzle.id)
        fixed, num_lessons = fixed_colors(hide_test_outputs(puzzle)), config.fine_tuning.num_steps * config.fine_tuning.batch_size
        self._symmetries = generator.choice(config.symmetries, num_lessons).tolist()
        self._colors = [draw_colors(generator, fixed) if config.permute_colors else IDENTITY_COLORS for _ in range(num_lessons)]

    def __len__(self) -> int:
        return len(self._symmetries)

    def batch(self, indices: Sequence[int]) -> GridBatch:
        """Return lessons as a batch."""
        batch = make_batch([self._pairs[index % len(self._pairs)] for index in indices])
        shown = apply_symmetries(batch, torch.tensor([self._symmetries[index] for index in indices]))
        return apply_colors(shown, torch.tensor([self._colors[index] for index in indices]))


def cell_loss(model: nn.Module, batch: GridBatch) -> Tensor:
    """Compute the mean cross-entropy of the cells to predict, in nats."""
    logits_BTC = model(batch)
    return F.cross_entropy(logits_BTC.float().flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE)


def solve_grid_task(task: GridTask, channel: TaskChannel) -> TaskOutcome:
    """Solve a puzzle within the limits of its worker.

    Sends first what needs no model, then what the model answers without training, so that a fault costs no answer. What runs out of
    memory is tried again with less.
    """
    torch.set_num_threads(task.config.threads)
    puzzle, config = hide_test_outputs(task.puzzle), task.config
    channel.send_answer(TaskOutcome(attempts_json(fallback_attempts(puzzle))))
    model = task.load_model().eval()
    rank = config.adapter.rank if config.adapter.method == "lora" else None
    trains = config.adapter.method != "none"
    plan = TaskPlan(config.fine_tuning.batch_size, num_views=config.num_views, rank=rank, trains=trains)

    def attempt(plan: TaskPlan) -> TaskOutcome:
        """Train and predict as planned."""
        if trains:
            channel.send_answer(describe_attempts(predict_views(puzzle, task, model, plan), plan))
        return train_and_solve(puzzle, task, model, plan, channel)

    return run_with_ladder(plan, attempt, channel.log_rung)[0]


def train_and_solve(puzzle: Puzzle, task: GridTask, model: nn.Module, plan: TaskPlan, channel: TaskChannel) -> TaskOutcome:
    """Train on the demonstrations and vote. The model is the base again afterwards."""
    config = task.config
    adapter = replace(config.adapter, rank=plan.rank or config.adapter.rank) if plan.trains else AdapterConfig(method="none")
    with adapted_model(model, adapter) as adapted:
        result = train(puzzle, task, adapted, plan, channel) if plan.trains else FineTuningResult(0, 0, (), 0.0)
        outputs = predict_views(puzzle, task, model, plan)
    return replace(
        describe_attempts(outputs, plan),
        num_trainable_params=result.num_trainable_params,
        num_steps=result.num_steps,
        first_loss=result.losses[0] if result.losses else None,
        last_loss=result.losses[-1] if result.losses else None,
        max_weight_change=result.max_weight_change,
        base_digest=adapted.base_digest,
    )


def train(puzzle: Puzzle, task: GridTask, adapted: AdaptedModel, plan: TaskPlan, channel: TaskChannel) -> FineTuningResult:
    """Train on views of the demonstrations until the time for training is over."""
    stops_at = time.monotonic() + TRAINING_FRAC * channel.seconds_left
    return fine_tune(
        adapted,
        GridLessons(puzzle, task.number, task.config),
        lambda batch: cell_loss(adapted.model, batch),
        task.config.fine_tuning,
        plan.micro_batch_size,
        plan.recompute,
        lambda: time.monotonic() > stops_at,
    )


def predict_views(puzzle: Puzzle, task: GridTask, model: nn.Module, plan: TaskPlan) -> list[OutputAttempts]:
    """Return the attempts at each test output, by the vote of views."""
    device = next(model.parameters()).device
    config = task.config

    def predict(batch: GridBatch) -> Tensor:
        """Return log-probabilities of the colours of cells."""
        with torch.inference_mode():
            logits_BTC: Tensor = model(batch.map(lambda tensor: tensor.to(device)))
        return logits_BTC.float().log_softmax(-1).cpu()

    return solve_puzzle(predict, puzzle, task.number, config.in_place, plan.num_views, config.seed, config.symmetries)


def describe_attempts(outputs: Sequence[OutputAttempts], plan: TaskPlan) -> TaskOutcome:
    """Return attempts and their votes as an outcome without training."""
    return TaskOutcome(
        attempts_json([output.voted for output in outputs]),
        num_views=plan.num_views,
        votes=tuple(output.num_votes for output in outputs),
        num_leaky_views=sum(output.num_leaky for output in outputs),
    )
