"""Stochastic gradient descent with momentum and decoupled weight decay, as torch has it but for the decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class SGD(torch.optim.SGD):
    """p ← p·(1 - rate·weight_decay), then m ← momentum·m + g and p ← p - rate·m.

    torch adds the decay to the gradient, where it passes through the momentum; ours means the same as in AdamW, Lion and Muon.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, lr, momentum)
        for group in self.param_groups:
            group["decoupled"] = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient. `closure` is not called."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                parameter.mul_(1 - group["lr"] * group["decoupled"])
        super().step()
