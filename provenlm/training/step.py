"""A step: what one update did, frozen; and who may judge it: monitors, which look and ask but never change anything themselves."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from provenlm.models.common.objective import Told
from provenlm.training.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class Update:
    """What one objective found, before its optimizers move anything: means over the batch, and the norm before clipping."""

    objective: str
    step: int  # the number that this step will have
    terms: Mapping[str, float]
    grad_norm: float
    grad_norms: Mapping[str, float]  # by role


@dataclass(frozen=True)
class Step:
    """`terms` are means over the step's targets; `held_out` is None where it was not measured.

    Within `judged()` the net has the weights that are published, `snapshot()` is the whole state after this step and `evidence()` what `dump.replay` needs to repeat its loss; all are valid
    until the next step is asked for.
    """

    number: int  # of steps taken, this one included
    terms: Mapping[str, float]
    held_out: Mapping[str, float] | None
    share: float  # of the peak learning rates
    grad_norm: float  # before clipping
    grad_norms: Mapping[str, float]  # the same by role of the parameters
    inside: Told  # what the nets told of the step
    micro_batch: int  # rows at a time: as set, or fewer where memory did not hold so many
    targets: int  # that carried loss
    rows: int  # of the batch
    length: int  # positions a row
    positions: int  # that were computed, padding too
    epochs: float  # drawn since the beginning
    seconds: float  # without the held-out loss
    data_seconds: float  # of these, waiting for the batch
    scale: float  # of the loss on its way back: 1 but for fp16
    overflow: str | None  # why fp16's gradients were not applied: no fault of data or weights
    skipped: str | None  # why an objective's parameters were left alone
    slowed: str | None  # why the rates are lower from here on
    back: str | None  # why and where to the run went back after this step; `snapshot` is then of the state it went back to
    stop: str | None  # why this step is the last
    judged: Callable[[], AbstractContextManager[None]] = field(repr=False, compare=False)
    snapshot: Callable[[], Checkpoint] = field(repr=False, compare=False)
    evidence: Callable[[], Checkpoint] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Stop:
    """Asks for this step to be the last."""

    why: str


@dataclass(frozen=True)
class GoBack:
    """Asks to go back to the last good checkpoint, to draw on past all data seen so far, at `slower` times the rates for `steps`."""

    why: str
    slower: float
    steps: int


@dataclass(frozen=True)
class Slow:
    """Asks to multiply all rates by `factor`, from the next step to the last."""

    why: str
    factor: float


class Monitor(Protocol):
    """Sees every update and every step. Those that only look at some of it inherit the rest from here."""

    def weigh(self, update: Update) -> str | None:
        """Look at an update that is finite, before it is applied; a text asks to skip it and says why."""
        return None

    def observe(self, step: Step) -> Stop | GoBack | Slow | None:
        """Look at a step when it is done."""
        return None

    def state(self) -> Any:
        """JSON of all that the answers depend on; part of every checkpoint."""
        return None

    def restore(self, state: Any) -> None:
        """Become what `state` saw: when a run is resumed, and when it goes back."""
        return
