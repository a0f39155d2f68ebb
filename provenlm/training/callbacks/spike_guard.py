"""Losses and gradient norms in; wishes to skip a step, to go back, and at last to stop, out.

The score of a value is its distance above the median of a window of accepted steps, in robust standard deviations: 1.4826 × the
median absolute deviation (Hampel 1974). One wild value moves neither, as it would a mean and a standard deviation.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from provenlm.training.config_sections import SpikeGuardConfig as Settings
from provenlm.training.step import Callback, GradientInfo, Rollback, StepResult, StopTraining

MIN_DEVIATION = 0.02  # of a deviation, in logarithms: where values hardly differ, one that is 2 % larger is no news


class AcceptedStep(NamedTuple):
    """What is remembered of an accepted update."""

    loss: float
    grad_norm: float


class SpikeGuard(Callback):
    """Skips updates that are far above what is usual; after too many of them goes back; after too many of these stops."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.windows: dict[str, deque[AcceptedStep]] = {}  # by objective
        self.skipped_steps: list[int] = []  # steps, since the run last went back
        self.num_rollbacks = 0

    def pre_optim_step(self, gradient_info: GradientInfo) -> str | None:
        window = self.windows.setdefault(gradient_info.objective, deque(maxlen=self.config.window_size))
        accepted = AcceptedStep(gradient_info.terms["loss"], gradient_info.grad_norm)
        if len(window) >= self.config.min_history and (reason := self._spike_reason(window, accepted)):
            return reason
        window.append(accepted)
        return None

    def _spike_reason(self, window: Sequence[AcceptedStep], accepted: AcceptedStep) -> str | None:
        for name, value, recent in zip(("loss", "gradient norm"), accepted, zip(*window, strict=True), strict=True):
            zscore = robust_zscore(value, recent)
            if zscore > self.config.threshold_std:
                return f"{name} {value:.4g} has a score of {zscore:.1f}, above {self.config.threshold_std:g}"
        return None

    def post_step(self, step: StepResult) -> StopTraining | Rollback | None:
        if step.skip_reason:
            self.skipped_steps.append(step.number)
        self.skipped_steps = [number for number in self.skipped_steps if number > step.number - self.config.skip_window]
        if not step.skip_reason or len(self.skipped_steps) < self.config.max_skips:
            return None
        reason = f"{len(self.skipped_steps)} of the last {self.config.skip_window} steps skipped, the last one: {step.skip_reason}"
        if self.num_rollbacks == self.config.max_rollbacks:
            return StopTraining(f"{reason}; already went back {self.num_rollbacks} times")
        self.num_rollbacks += 1
        return Rollback(reason, self.config.rollback_lr_factor, self.config.rollback_lr_steps)

    def state_dict(self) -> Any:
        return {
            "windows": {name: [list(accepted) for accepted in window] for name, window in self.windows.items()},
            "skipped": self.skipped_steps,
            "went_back": self.num_rollbacks,
        }

    def load_state_dict(self, state: Any) -> None:
        """How often the run went back is not forgotten by going back; the skips that led to it are."""
        self.windows = {
            name: deque((AcceptedStep(*accepted) for accepted in window), self.config.window_size)
            for name, window in state["windows"].items()
        }
        self.skipped_steps = [] if self.num_rollbacks > state["went_back"] else list(state["skipped"])
        self.num_rollbacks = max(self.num_rollbacks, state["went_back"])


def robust_zscore(value: float, reference: Sequence[float]) -> float:
    """Robust standard deviations of log `value` above the median of the logs of `usual`; without logs if any is not positive."""
    if min(value, *reference) > 0:
        value, reference = math.log(value), [math.log(item) for item in reference]
    middle = median(reference)
    spread = 1.4826 * median(abs(item - middle) for item in reference)
    return (value - middle) / max(spread, MIN_DEVIATION)
