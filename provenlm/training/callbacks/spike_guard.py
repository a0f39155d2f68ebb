"""Skip loss and gradient spikes; roll back, then stop, if there are too many.

The z-score of a value is its distance above the median of a window of accepted steps, in robust standard deviations: 1.4826 × the
median absolute deviation (Hampel 1974). Unlike mean and standard deviation, these are not moved by a single outlier.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from provenlm.training.config_sections import SpikeGuardConfig
from provenlm.training.step import Callback, GradientInfo, Rollback, StepResult, StopTraining

MIN_DEVIATION = 0.02  # lower bound of the deviation, in logarithms: a difference of 2 % is never an outlier


class AcceptedStep(NamedTuple):
    """Hold what is remembered of an accepted update."""

    loss: float
    grad_norm: float


class SpikeGuard(Callback):
    """Skip updates with an outlying loss or gradient norm.

    After `max_skips` skips within `skip_window` steps it asks for a rollback, after `max_rollbacks` rollbacks to stop.
    """

    def __init__(self, config: SpikeGuardConfig) -> None:
        self.config = config
        self.windows: dict[str, deque[AcceptedStep]] = {}  # by objective
        self.skipped_steps: list[int] = []  # since the last rollback
        self.num_rollbacks = 0

    def pre_optim_step(self, gradient_info: GradientInfo) -> str | None:
        """Return why an update is an outlier, or accept it into the window."""
        window = self.windows.setdefault(gradient_info.objective, deque(maxlen=self.config.window_size))
        accepted = AcceptedStep(gradient_info.terms["loss"], gradient_info.grad_norm)
        if len(window) >= self.config.min_history and (reason := self._spike_reason(window, accepted)):
            return reason
        window.append(accepted)
        return None

    def _spike_reason(self, window: Sequence[AcceptedStep], accepted: AcceptedStep) -> str | None:
        """Name the value that is an outlier against the window, or return None."""
        for name, value, recent in zip(("loss", "gradient norm"), accepted, zip(*window, strict=True), strict=True):
            zscore = robust_zscore(value, recent)
            if zscore > self.config.threshold_std:
                return f"{name} {value:.4g} has a robust z-score of {zscore:.1f}, above {self.config.threshold_std:g}"
        return None

    def post_step(self, step: StepResult) -> StopTraining | Rollback | None:
        """Count skipped steps; ask for a rollback, or to stop, if there are too many."""
        if step.skip_reason:
            self.skipped_steps.append(step.number)
        self.skipped_steps = [number for number in self.skipped_steps if number > step.number - self.config.skip_window]
        if not step.skip_reason or len(self.skipped_steps) < self.config.max_skips:
            return None
        reason = f"{len(self.skipped_steps)} of the last {self.config.skip_window} steps skipped, the last one: {step.skip_reason}"
        if self.num_rollbacks == self.config.max_rollbacks:
            return StopTraining(f"{reason}; already rolled back {self.num_rollbacks} times")
        self.num_rollbacks += 1
        return Rollback(reason, self.config.rollback_lr_factor, self.config.rollback_lr_steps)

    def state_dict(self) -> Any:
        """Return the windows, the recent skips and the number of rollbacks."""
        return {
            "windows": {name: [list(accepted) for accepted in window] for name, window in self.windows.items()},
            "skipped_steps": self.skipped_steps,
            "num_rollbacks": self.num_rollbacks,
        }

    def load_state_dict(self, state: Any) -> None:
        """Restore a saved state.

        A rollback does not undo the count of rollbacks, but it clears the skips that led to it.
        """
        self.windows = {
            name: deque((AcceptedStep(*accepted) for accepted in window), self.config.window_size)
            for name, window in state["windows"].items()
        }
        self.skipped_steps = [] if self.num_rollbacks > state["num_rollbacks"] else list(state["skipped_steps"])
        self.num_rollbacks = max(self.num_rollbacks, state["num_rollbacks"])


def robust_zscore(value: float, reference: Sequence[float]) -> float:
    """Return the robust z-score of log `value` among the logs of `reference`.

    Without logs if any value is not positive.
    """
    if min(value, *reference) > 0:
        value, reference = math.log(value), [math.log(item) for item in reference]
    middle = median(reference)
    spread = 1.4826 * median(abs(item - middle) for item in reference)
    return (value - middle) / max(spread, MIN_DEVIATION)
