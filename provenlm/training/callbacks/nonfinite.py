"""Steps in; a wish to stop out, at the first loss or gradient that is no number."""

from provenlm.training.step import Callback, StepResult, StopTraining


class NonFiniteGuard(Callback):
    """Asks to stop at the first step that was not applied."""

    def post_step(self, step: StepResult) -> StopTraining | None:
        return StopTraining(f"at step {step.number}: {step.skip_reason}") if step.skip_reason else None
