"""Implement the Lion optimizer (arXiv 2302.06675): sign of mixed momentum."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class Lion(torch.optim.Optimizer):
    """Update p ← p·(1 - lr·weight_decay) - lr·sign(β₁m + (1 - β₁)g).

    Then m ← β₂m + (1 - β₂)g. The state is one tensor per parameter, half of Adam's; the paper uses learning rates 3 to 10 times smaller than
    Adam's.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. `closure` is ignored."""
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
