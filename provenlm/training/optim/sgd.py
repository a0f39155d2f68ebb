"""Implement SGD with momentum and decoupled weight decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class SGD(torch.optim.SGD):
    """Update p ← p·(1 - lr·weight_decay), m ← momentum·m + g, p ← p - lr·m.

    torch's SGD adds the decay to the gradient, where it passes through the momentum; here it means the same as in AdamW, Lion and Muon.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, lr, momentum)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. `closure` is ignored."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                parameter.mul_(1 - group["lr"] * group["decoupled_weight_decay"])
        super().step()
