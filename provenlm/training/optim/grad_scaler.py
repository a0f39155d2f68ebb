"""Steps that overflowed or did not in, the factor on the loss that keeps the small gradients of fp16 from vanishing out.

Micikevicius et al. 2017, arXiv 1710.03740; the numbers are those of torch's GradScaler. fp32 and bf16 have the range: their factor is 1.
"""

import math
from dataclasses import dataclass, field

from provenlm.training.step import GradientInfo

INITIAL_SCALE = 2.0**16
MIN_SCALE = 1.0  # what overflows even then is no matter of scale
GROWTH_INTERVAL = 2000  # steps without overflow after which the scale is doubled


@dataclass
class GradScaler:
    """`scale` is a power of two, so that scaling and its undoing lose no bits."""

    precision: str
    scale: float = field(init=False)
    growth_tracker: int = 0  # steps without overflow

    def __post_init__(self) -> None:
        self.scale = INITIAL_SCALE if self.precision == "fp16" else 1.0

    def overflow_reason(self, gradient_info: GradientInfo) -> str | None:
        """Why an update is no news but a matter of scale: its losses are finite and its gradients are not."""
        finite = all(math.isfinite(value) for value in gradient_info.terms.values())
        if self.scale <= MIN_SCALE or not finite or math.isfinite(gradient_info.grad_norm):
            return None
        return f"gradients left the range of {self.precision} at a scale of {self.scale:g}; half of that from here on"

    def update(self, overflowed: bool) -> None:
        """After a step: half the scale if it overflowed, twice after `PATIENCE` steps that did not."""
        if self.precision != "fp16":
            return
        self.growth_tracker = 0 if overflowed else self.growth_tracker + 1
        if overflowed:
            self.scale /= 2
        elif self.growth_tracker == GROWTH_INTERVAL:
            self.scale, self.growth_tracker = 2 * self.scale, 0
