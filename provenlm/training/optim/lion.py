"""Lion: each element moves by the rate, in the direction of the sign of a mix of gradient and momentum (arXiv 2302.06675)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class Lion(torch.optim.Optimizer):
    """With c = β₁m + (1 - β₁)g: p ← p·(1 - rate·weight_decay) - rate·sign(c), then m ← β₂m + (1 - β₂)g.

    One tensor of state a parameter, half of Adam's; the paper takes rates 3 to 10 times smaller than Adam's.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient. `closure` is not called."""
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum: torch.Tensor = state["momentum"]
                direction = momentum.lerp(parameter.grad, 1 - beta1).sign_()
                parameter.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr)
                momentum.lerp_(parameter.grad, 1 - beta2)
