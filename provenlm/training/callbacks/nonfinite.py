"""Steps in; a wish to stop out, at the first loss or gradient that is no number."""

from provenlm.training.step import Monitor, Step, Stop


class Finite(Monitor):
    """Asks to stop at the first step that was not applied."""

    def observe(self, step: Step) -> Stop | None:
        return Stop(f"at step {step.number}: {step.skipped}") if step.skipped else None
