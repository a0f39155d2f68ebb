"""Define the result of a step and the callbacks that observe steps.

Callbacks may ask to skip an update, stop, roll back or lower the learning rates; the training loop carries it out.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from provenlm.models.common.objective import StepMetrics
from provenlm.training.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class GradientInfo:
    """Hold one objective's losses and gradient norms before its optimizers step.

    Losses are means over the batch; norms are taken before clipping.
    """

    objective: str
    step: int  # number of the step in progress
    terms: Mapping[str, float]
    grad_norm: float
    grad_norms: Mapping[str, float]  # by parameter group


@dataclass(frozen=True)
class StepResult:
    """Hold what one training step did.

    `terms` are means over the step's targets; `val_losses` is None if the validation loss was not computed. `eval_weights()` gives the model
    its evaluation weights within a context, `snapshot()` returns the full state after this step and `debug_dump()` what `replay_step` needs
    to repeat its loss; all three are valid until the next step is requested.
    """

    number: int  # counts from 1
    terms: Mapping[str, float]
    val_losses: Mapping[str, float] | None
    lr_scale: float  # factor on the peak learning rates
    grad_norm: float  # global norm before clipping
    grad_norms: Mapping[str, float]  # by parameter group, before clipping
    model_metrics: StepMetrics  # reported by the model
    micro_batch_size: int  # sequences per forward pass; less than configured after an out-of-memory error
    num_targets: int  # targets that carry loss
    num_sequences: int  # sequences of the batch
    seq_len: int  # positions per sequence
    num_positions: int  # computed positions, including padding
    epochs: float  # epochs drawn since the start of training
    seconds: float  # without the validation loss
    data_seconds: float  # part of `seconds` spent on drawing the batch
    loss_scale: float  # factor on the loss in the backward pass: 1 except for fp16
    overflow_reason: str | None  # why fp16 gradients were not applied: out of range, no fault of data or weights
    skip_reason: str | None  # why an objective's update was skipped
    lr_drop_reason: str | None  # why the learning rates are lower from the next step on
    rollback_reason: str | None  # why and to which step the run rolled back; `snapshot` then returns the restored state
    stop_reason: str | None  # why this step is the last
    eval_weights: Callable[[], AbstractContextManager[None]] = field(repr=False, compare=False)
    snapshot: Callable[[], Checkpoint] = field(repr=False, compare=False)
    debug_dump: Callable[[], Checkpoint] = field(repr=False, compare=False)


@dataclass(frozen=True)
class StopTraining:
    """Ask to end training after this step."""

    reason: str


@dataclass(frozen=True)
class Rollback:
    """Ask to restore the latest checkpoint and continue with new data.

    The learning rates are scaled by `lr_factor` for `lr_steps` steps.
    """

    reason: str
    lr_factor: float
    lr_steps: int


@dataclass(frozen=True)
class ReduceLR:
    """Ask to multiply all learning rates by `factor` for the rest of training."""

    reason: str
    factor: float


class Callback(Protocol):
    """Observe every update and every step; subclasses override what they need."""

    def pre_optim_step(self, gradient_info: GradientInfo) -> str | None:
        """Inspect a finite update before it is applied; a text skips it and says why."""
        return None

    def post_step(self, step: StepResult) -> StopTraining | Rollback | ReduceLR | None:
        """Inspect a finished step; the returned action is carried out by the loop."""
        return None

    def state_dict(self) -> Any:
        """Return the callback's state as JSON; it becomes part of every checkpoint."""
        return None

    def load_state_dict(self, state: Any) -> None:
        """Restore a saved state, on resume and on rollback."""
        return
