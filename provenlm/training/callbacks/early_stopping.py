"""Held-out losses in; a wish to lower the rates, or to stop, out, when they have not improved for a while."""

import math
from typing import Any

from provenlm.training.config_sections import EarlyStoppingConfig, ReduceLROnPlateauConfig
from provenlm.training.step import Callback, ReduceLR, Rollback, StepResult, StopTraining


class PatienceCallback(Callback):
    """Counts the measurements of the term `judge` on held-out data since the last that was smaller by `least`."""

    def __init__(self, config: EarlyStoppingConfig | ReduceLROnPlateauConfig, eval_term: str) -> None:
        self.config, self.eval_term = config, eval_term
        self.best, self.num_bad_evals = math.inf, 0

    def post_step(self, step: StepResult) -> StopTraining | Rollback | ReduceLR | None:
        if step.val_losses is None:
            return None
        loss = step.val_losses[self.eval_term]
        if loss < self.best - self.config.min_delta:
            self.best, self.num_bad_evals = loss, 0
            return None
        self.num_bad_evals += 1
        if self.num_bad_evals < self.config.patience:
            return None
        reason = f"{self.eval_term} on held-out rows not below {self.best:.4f} for {self.num_bad_evals} measurements"
        self.num_bad_evals = 0
        return ReduceLR(reason, self.config.factor) if isinstance(self.config, ReduceLROnPlateauConfig) else StopTraining(reason)

    def state_dict(self) -> Any:
        """`best` is null before the first measurement."""
        return {"best": None if self.best == math.inf else self.best, "waited": self.num_bad_evals}

    def load_state_dict(self, state: Any) -> None:
        self.best, self.num_bad_evals = math.inf if state["best"] is None else state["best"], state["waited"]
