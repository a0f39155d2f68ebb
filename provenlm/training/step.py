"""A step: what one update did, frozen; and what may look at it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from provenlm.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Step:
    """`terms` are means over the step's targets; `held_out` is None where it was not measured.

    `snapshot()` is the whole state after this step, valid until the next one is asked for.
    """

    number: int  # of steps taken, this one included
    terms: Mapping[str, float]
    held_out: Mapping[str, float] | None
    share: float  # of the peak learning rates
    grad_norm: float  # before clipping
    targets: int  # that carried loss
    positions: int  # that were computed, padding too
    epochs: float  # drawn since the beginning
    seconds: float  # without the held-out loss
    data_seconds: float  # of these, waiting for the batch
    applied: bool  # False: not finite, so the parameters were left alone
    stop: str | None  # why this step is the last
    snapshot: Callable[[], Checkpoint] = field(repr=False, compare=False)


class Monitor(Protocol):
    """Sees every step; may only ask to stop."""

    def observe(self, step: Step) -> str | None:
        """Look at a step; a text asks to stop and says why."""
