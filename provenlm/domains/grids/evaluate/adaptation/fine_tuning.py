"""Train the weights of an adapted model on the lessons of one task."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from provenlm.core.errors import ConfigError
from provenlm.domains.grids.evaluate.adaptation.adapted_model import AdaptedModel
from provenlm.domains.grids.evaluate.adaptation.config import FineTuningConfig
from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.objective import Batch


class Lessons(Protocol):
    """Define the training examples of one task."""

    def __len__(self) -> int:
        """Return the number of lessons."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return lessons as a batch on the CPU."""


@dataclass(frozen=True)
class FineTuningResult:
    """Hold what a fine-tuning did.

    Losses are means in nats per target, one for each step, before it.
    """

    num_trainable_params: int
    num_steps: int
    losses: tuple[float, ...]
    max_weight_change: float


def fine_tune(
    adapted: AdaptedModel,
    lessons: Lessons,
    mean_loss: Callable[[Any], Tensor],
    config: FineTuningConfig,
    micro_batch_size: int,
    recompute: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> FineTuningResult:
    """Train for `config.num_steps` steps, or until `should_stop()`.

    `mean_loss(batch)` is the mean over the targets of a batch. Micro-batches are weighted by their targets, so that their size does not
    change the gradient. Raises ConfigError if nothing can be trained, and FloatingPointError at a loss that is not finite.
    """
    if not adapted.trainable or not len(lessons):
        raise ConfigError(
            f"test-time training: must have trainable parameters and lessons, got {adapted.num_trainable_params} and {len(lessons)}"
        )
    device = next(iter(adapted.trainable.values())).device
    parameters = list(adapted.trainable.values())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    num_warmup_steps = max(1, round(config.warmup_frac * config.num_steps))
    losses: list[float] = []
    adapted.model.train()
    with torch.random.fork_rng(), recomputed_activations(adapted.model, recompute):
        torch.manual_seed(config.seed)  # dropout
        for indices in lesson_order(len(lessons), config):
            if len(losses) == config.num_steps or should_stop():
                break
            batch = lessons.batch(indices).map(lambda tensor: tensor.to(device))
            loss = accumulate_gradients(batch, mean_loss, micro_batch_size)
            if not np.isfinite(loss):
                raise FloatingPointError(f"test-time training: loss of step {len(losses)} must be finite, got {loss}")
            if not losses:
                check_gradients(adapted)
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(1.0, (len(losses) + 1) / num_warmup_steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)
    adapted.model.eval()
    return FineTuningResult(adapted.num_trainable_params, len(losses), tuple(losses), adapted.max_weight_change())


def accumulate_gradients(batch: Batch, mean_loss: Callable[[Any], Tensor], micro_batch_size: int) -> float:
    """Add the gradient of the mean loss of a batch and return the loss.

    It is computed in micro-batches.
    """
    total, num_targets = 0.0, batch.num_targets
    for start in range(0, batch.num_sequences, micro_batch_size):
        micro_batch = batch.select(slice(start, start + micro_batch_size))
        if not micro_batch.num_targets:
            continue
        loss = mean_loss(micro_batch) * (micro_batch.num_targets / num_targets)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def check_gradients(adapted: AdaptedModel) -> None:
    """Raise ConfigError if an adapter, or every weight, takes no part in the loss."""
    without = [name for name, parameter in adapted.trainable.items() if parameter.grad is None]
    if without and (adapted.tuner is not None or len(without) == len(adapted.trainable)):
        raise ConfigError(f"test-time training: every adapter must have a gradient after the first step, got none for {without[0]}")


def lesson_order(num_lessons: int, config: FineTuningConfig) -> Iterator[list[int]]:
    """Yield the lessons of each step without end: every epoch is a new permutation."""
    rng = np.random.default_rng(config.seed)
    queue: list[int] = []
    while True:
        while len(queue) < min(config.batch_size, num_lessons):
            queue += rng.permutation(num_lessons).tolist()
        yield queue[: config.batch_size]
        queue = queue[config.batch_size :]


@contextmanager
def recomputed_activations(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Store only the inputs of blocks for gradients and compute the rest again.

    Less memory, more time. Raises ConfigError for a model that cannot.
    """
    stacks = [module for module in model.modules() if isinstance(module, BlockStack)]
    sizes = [stack.blocks_per_checkpoint for stack in stacks]
    prefix = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # transformers renamed them
    enable, disable = (getattr(model, f"{prefix}_checkpointing_{verb}", None) for verb in ("enable", "disable"))
    if enabled and not stacks and not (callable(enable) and callable(disable)):
        raise ConfigError(f"{type(model).__name__}: must have a stack of blocks to recompute activations")
    if not enabled:
        yield
        return
    try:
        for stack in stacks:
            stack.blocks_per_checkpoint = 1
        if not stacks and callable(enable):
            enable(**{f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}})
        yield
    finally:
        for stack, size in zip(stacks, sizes, strict=True):
            stack.blocks_per_checkpoint = size
        if not stacks and callable(disable):
            disable()
