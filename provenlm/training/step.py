"""A step: what one update did, frozen; and who may judge it: monitors, which look and ask but never change anything themselves."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from provenlm.models.common.objective import StepMetrics
from provenlm.training.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class GradientInfo:
    """What one objective found, before its optimizers move anything: means over the batch, and the norm before clipping."""

    objective: str
    step: int  # the number that this step will have
    terms: Mapping[str, float]
    grad_norm: float
    grad_norms: Mapping[str, float]  # by role


@dataclass(frozen=True)
class StepResult:
    """`terms` are means over the step's targets; `held_out` is None where it was not measured.

    Within `judged()` the net has the weights that are published, `snapshot()` is the whole state after this step and `evidence()` what `dump.replay` needs to repeat its loss; all are valid
    until the next step is asked for.
    """

    number: int  # of steps taken, this one included
    terms: Mapping[str, float]
    val_losses: Mapping[str, float] | None
    lr_scale: float  # of the peak learning rates
    grad_norm: float  # before clipping
    grad_norms: Mapping[str, float]  # the same by role of the parameters
    model_metrics: StepMetrics  # what the nets told of the step
    micro_batch_size: int  # rows at a time: as set, or fewer where memory did not hold so many
    num_targets: int  # that carried loss
    num_sequences: int  # of the batch
    seq_len: int  # positions a row
    num_positions: int  # that were computed, padding too
    epochs: float  # drawn since the beginning
    seconds: float  # without the held-out loss
    data_seconds: float  # of these, waiting for the batch
    loss_scale: float  # of the loss on its way back: 1 but for fp16
    overflow_reason: str | None  # why fp16's gradients were not applied: no fault of data or weights
    skip_reason: str | None  # why an objective's parameters were left alone
    lr_drop_reason: str | None  # why the rates are lower from here on
    rollback_reason: (
        str | None
    )  # why and where to the run went back after this step; `snapshot` is then of the state it went back to
    stop_reason: str | None  # why this step is the last
    eval_weights: Callable[[], AbstractContextManager[None]] = field(repr=False, compare=False)
    snapshot: Callable[[], Checkpoint] = field(repr=False, compare=False)
    debug_dump: Callable[[], Checkpoint] = field(repr=False, compare=False)


@dataclass(frozen=True)
class StopTraining:
    """Asks for this step to be the last."""

    reason: str


@dataclass(frozen=True)
class Rollback:
    """Asks to go back to the last good checkpoint, to draw on past all data seen so far, at `slower` times the rates for `steps`."""

    reason: str
    lr_factor: float
    lr_steps: int


@dataclass(frozen=True)
class ReduceLR:
    """Asks to multiply all rates by `factor`, from the next step to the last."""

    reason: str
    factor: float


class Callback(Protocol):
    """Sees every update and every step. Those that only look at some of it inherit the rest from here."""

    def pre_optim_step(self, gradient_info: GradientInfo) -> str | None:
        """Look at an update that is finite, before it is applied; a text asks to skip it and says why."""
        return None

    def post_step(self, step: StepResult) -> StopTraining | Rollback | ReduceLR | None:
        """Look at a step when it is done."""
        return None

    def state_dict(self) -> Any:
        """JSON of all that the answers depend on; part of every checkpoint."""
        return None

    def load_state_dict(self, state: Any) -> None:
        """Become what `state` saw: when a run is resumed, and when it goes back."""
        return
