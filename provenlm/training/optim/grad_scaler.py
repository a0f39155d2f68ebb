"""Steps that overflowed or did not in, the factor on the loss that keeps the small gradients of fp16 from vanishing out.

Micikevicius et al. 2017, arXiv 1710.03740; the numbers are those of torch's GradScaler. fp32 and bf16 have the range: their factor is 1.
"""

import math
from dataclasses import dataclass, field

from provenlm.training.step import Update

FIRST = 2.0**16
LEAST = 1.0  # what overflows even then is no matter of scale
PATIENCE = 2000  # steps without overflow after which the scale is doubled


@dataclass
class Scaler:
    """`scale` is a power of two, so that scaling and its undoing lose no bits."""

    precision: str
    scale: float = field(init=False)
    since: int = 0  # steps without overflow

    def __post_init__(self) -> None:
        self.scale = FIRST if self.precision == "fp16" else 1.0

    def overflow(self, update: Update) -> str | None:
        """Why an update is no news but a matter of scale: its losses are finite and its gradients are not."""
        finite = all(math.isfinite(value) for value in update.terms.values())
        if self.scale <= LEAST or not finite or math.isfinite(update.grad_norm):
            return None
        return f"gradients left the range of {self.precision} at a scale of {self.scale:g}; half of that from here on"

    def settle(self, overflowed: bool) -> None:
        """After a step: half the scale if it overflowed, twice after `PATIENCE` steps that did not."""
        if self.precision != "fp16":
            return
        self.since = 0 if overflowed else self.since + 1
        if overflowed:
            self.scale /= 2
        elif self.since == PATIENCE:
            self.scale, self.since = 2 * self.scale, 0
