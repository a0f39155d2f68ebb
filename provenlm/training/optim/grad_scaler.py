"""Scale the loss so that small fp16 gradients do not underflow.

Micikevicius et al. 2017, arXiv 1710.03740; the constants are those of torch's GradScaler. fp32 and bf16 need no scaling: factor 1.
"""

import math
from dataclasses import dataclass, field

from provenlm.training.step import GradientInfo

INITIAL_SCALE = 2.0**16
MIN_SCALE = 1.0  # an overflow at this scale has another cause
GROWTH_INTERVAL = 2000  # steps without an overflow before the scale is doubled


@dataclass
class GradScaler:
    """Hold the loss scale, a power of two, so that scaling loses no bits."""

    precision: str
    scale: float = field(init=False)
    growth_tracker: int = 0  # steps since the last overflow or change of the scale

    def __post_init__(self) -> None:
        self.scale = INITIAL_SCALE if self.precision == "fp16" else 1.0

    def overflow_reason(self, gradient_info: GradientInfo) -> str | None:
        """Return why an update is an fp16 overflow, or None.

        That is the case if its losses are finite and its gradients are not.
        """
        finite = all(math.isfinite(value) for value in gradient_info.terms.values())
        if self.scale <= MIN_SCALE or not finite or math.isfinite(gradient_info.grad_norm):
            return None
        return f"gradients overflowed {self.precision} at loss scale {self.scale:g}; the scale is halved"

    def update(self, overflowed: bool) -> None:
        """Halve the scale after an overflow, double it after `GROWTH_INTERVAL` good steps."""
        if self.precision != "fp16":
            return
        self.growth_tracker = 0 if overflowed else self.growth_tracker + 1
        if overflowed:
            self.scale /= 2
        elif self.growth_tracker == GROWTH_INTERVAL:
            self.scale, self.growth_tracker = 2 * self.scale, 0
