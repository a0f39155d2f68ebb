"""Held-out losses in; a wish to lower the rates, or to stop, out, when they have not improved for a while."""

import math
from typing import Any

from provenlm.training.config_sections import EarlyStop, Plateau
from provenlm.training.step import GoBack, Monitor, Slow, Step, Stop


class Patience(Monitor):
    """Counts the measurements of the term `judge` on held-out data since the last that was smaller by `least`."""

    def __init__(self, wanted: EarlyStop | Plateau, judge: str) -> None:
        self.wanted, self.judge = wanted, judge
        self.best, self.waited = math.inf, 0

    def observe(self, step: Step) -> Stop | GoBack | Slow | None:
        if step.held_out is None:
            return None
        loss = step.held_out[self.judge]
        if loss < self.best - self.wanted.least:
            self.best, self.waited = loss, 0
            return None
        self.waited += 1
        if self.waited < self.wanted.measurements:
            return None
        why = f"{self.judge} on held-out rows not below {self.best:.4f} for {self.waited} measurements"
        self.waited = 0
        return Slow(why, self.wanted.factor) if isinstance(self.wanted, Plateau) else Stop(why)

    def state(self) -> Any:
        """`best` is null before the first measurement."""
        return {"best": None if self.best == math.inf else self.best, "waited": self.waited}

    def restore(self, state: Any) -> None:
        self.best, self.waited = math.inf if state["best"] is None else state["best"], state["waited"]
