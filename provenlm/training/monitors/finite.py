"""Steps in; a reason to stop out, at the first loss or gradient that is no number."""

import math

from provenlm.training.step import Step


class Finite:
    """Asks to stop at the first step that was not applied because its loss or gradient norm is not finite."""

    def observe(self, step: Step) -> str | None:
        wrong = [f"{name} is {value}" for name, value in step.terms.items() if not math.isfinite(value)]
        if not math.isfinite(step.grad_norm):
            wrong.append(f"the gradient norm is {step.grad_norm}")
        return f"not finite at step {step.number}: {', '.join(wrong)}" if wrong else None
