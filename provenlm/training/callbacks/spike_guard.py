"""Losses and gradient norms in; wishes to skip a step, to go back, and at last to stop, out.

The score of a value is its distance above the median of a window of accepted steps, in robust standard deviations: 1.4826 × the
median absolute deviation (Hampel 1974). One wild value moves neither, as it would a mean and a standard deviation.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from provenlm.training.config_sections import Stability as Settings
from provenlm.training.step import GoBack, Monitor, Step, Stop, Update

FLOOR = 0.02  # of a deviation, in logarithms: where values hardly differ, one that is 2 % larger is no news


class Seen(NamedTuple):
    """What is remembered of an accepted update."""

    loss: float
    grad_norm: float


class Stability(Monitor):
    """Skips updates that are far above what is usual; after too many of them goes back; after too many of these stops."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.windows: dict[str, deque[Seen]] = {}  # by objective
        self.skipped: list[int] = []  # steps, since the run last went back
        self.went_back = 0

    def weigh(self, update: Update) -> str | None:
        window = self.windows.setdefault(update.objective, deque(maxlen=self.settings.window))
        seen = Seen(update.terms["loss"], update.grad_norm)
        if len(window) >= self.settings.least and (why := self._spike(window, seen)):
            return why
        window.append(seen)
        return None

    def _spike(self, window: Sequence[Seen], seen: Seen) -> str | None:
        for name, value, usual in zip(("loss", "gradient norm"), seen, zip(*window, strict=True), strict=True):
            score = robust_score(value, usual)
            if score > self.settings.limit:
                return f"{name} {value:.4g} has a score of {score:.1f}, above {self.settings.limit:g}"
        return None

    def observe(self, step: Step) -> Stop | GoBack | None:
        if step.skipped:
            self.skipped.append(step.number)
        self.skipped = [number for number in self.skipped if number > step.number - self.settings.within]
        if not step.skipped or len(self.skipped) < self.settings.skips:
            return None
        why = f"{len(self.skipped)} of the last {self.settings.within} steps skipped, the last one: {step.skipped}"
        if self.went_back == self.settings.returns:
            return Stop(f"{why}; already went back {self.went_back} times")
        self.went_back += 1
        return GoBack(why, self.settings.slower, self.settings.slower_steps)

    def state(self) -> Any:
        return {
            "windows": {name: [list(seen) for seen in window] for name, window in self.windows.items()},
            "skipped": self.skipped,
            "went_back": self.went_back,
        }

    def restore(self, state: Any) -> None:
        """How often the run went back is not forgotten by going back; the skips that led to it are."""
        self.windows = {
            name: deque((Seen(*seen) for seen in window), self.settings.window) for name, window in state["windows"].items()
        }
        self.skipped = [] if self.went_back > state["went_back"] else list(state["skipped"])
        self.went_back = max(self.went_back, state["went_back"])


def robust_score(value: float, usual: Sequence[float]) -> float:
    """Robust standard deviations of log `value` above the median of the logs of `usual`; without logs if any is not positive."""
    if min(value, *usual) > 0:
        value, usual = math.log(value), [math.log(each) for each in usual]
    middle = median(usual)
    spread = 1.4826 * median(abs(each - middle) for each in usual)
    return (value - middle) / max(spread, FLOOR)
