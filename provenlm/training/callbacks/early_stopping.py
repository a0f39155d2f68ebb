"""Stop training, or lower the learning rates, when the validation loss stalls."""

import math
from typing import Any

from provenlm.training.config_sections import EarlyStoppingConfig, ReduceLROnPlateauConfig
from provenlm.training.step import Callback, ReduceLR, Rollback, StepResult, StopTraining


class PatienceCallback(Callback):
    """Count the evaluations since the validation loss last improved.

    An improvement is at least `min_delta`. After `patience` evaluations without one, the callback asks to stop (EarlyStoppingConfig) or to
    reduce the learning rates (ReduceLROnPlateauConfig).
    """

    def __init__(self, config: EarlyStoppingConfig | ReduceLROnPlateauConfig, eval_term: str) -> None:
        self.config, self.eval_term = config, eval_term
        self.best, self.num_bad_evals = math.inf, 0

    def post_step(self, step: StepResult) -> StopTraining | Rollback | ReduceLR | None:
        """Compare the validation loss of a step with the best one."""
        if step.val_losses is None:
            return None
        loss = step.val_losses[self.eval_term]
        if loss < self.best - self.config.min_delta:
            self.best, self.num_bad_evals = loss, 0
            return None
        self.num_bad_evals += 1
        if self.num_bad_evals < self.config.patience:
            return None
        reason = f"validation {self.eval_term} has not improved on {self.best:.4f} for {self.num_bad_evals} evaluations"
        self.num_bad_evals = 0
        return ReduceLR(reason, self.config.factor) if isinstance(self.config, ReduceLROnPlateauConfig) else StopTraining(reason)

    def state_dict(self) -> Any:
        """Return the best loss (null before the first evaluation) and the count."""
        return {"best": None if self.best == math.inf else self.best, "num_bad_evals": self.num_bad_evals}

    def load_state_dict(self, state: Any) -> None:
        """Restore the best loss and the count."""
        self.best, self.num_bad_evals = math.inf if state["best"] is None else state["best"], state["num_bad_evals"]
