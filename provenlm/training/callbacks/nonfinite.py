"""Stop training at the first loss or gradient that is not finite."""

from provenlm.training.step import Callback, StepResult, StopTraining


class NonFiniteGuard(Callback):
    """Ask to stop at the first skipped step."""

    def post_step(self, step: StepResult) -> StopTraining | None:
        """Ask to stop if an update of the step was skipped."""
        return StopTraining(f"at step {step.number}: {step.skip_reason}") if step.skip_reason else None
