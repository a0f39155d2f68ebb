"""Muon: gradients of matrices in, steps whose singular values are all near one out.

Shapes: X matrices of one shape, M rows, N columns.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.training.distributed.fsdp import here, wholly

# Polar Express (arXiv 2505.16932, table of the degree-5 scheme): the best odd quintics, one after the other, for singular
# values from 1e-3 to 1; each is a·x + b·x³ + c·x⁵.
QUINTICS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
HEADROOM = 1.02  # keeps the largest singular value below 1 when rounding goes the wrong way


def orthogonalise(matrices_XMN: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns to each, nearly: singular values from about 0.7 to 1.3."""
    tall = matrices_XMN.shape[-2] > matrices_XMN.shape[-1]
    wide_XMN = matrices_XMN.mT if tall else matrices_XMN
    wide_XMN = wide_XMN / (wide_XMN.norm(dim=(-2, -1), keepdim=True) * HEADROOM + 1e-7)
    for a, b, c in QUINTICS:
        gram_XMM = wide_XMN @ wide_XMN.mT
        odd_XMM = torch.baddbmm(gram_XMM, gram_XMM, gram_XMM, beta=b, alpha=c)
        wide_XMN = torch.baddbmm(wide_XMN, odd_XMM, wide_XMN, beta=a)
    return wide_XMN.mT if tall else wide_XMN


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for parameters of two or more axes; leading axes are separate matrices.

    Nesterov momentum as a moving average; a step is rate · √max(1, M/N) times the orthogonal factor; decay is decoupled. Matrices
    that processes hold parts of are brought together, each in one of them.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "this optimizer does not evaluate the loss again"
        for group in self.param_groups:
            for alike in _by_shape(p for p in group["params"] if p.grad is not None).values():
                self._step_alike(alike, group)

    def _step_alike(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters of one shape, their matrices multiplied as one batch."""
        for parameter in alike:
            self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        mine = [here(p) for p in alike]
        gradients = [here(p.grad) for p in alike if p.grad is not None]
        averages = [here(self.state[p]["momentum"]) for p in alike]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"]))
        rows, columns = alike[0].shape[-2:]
        steps = wholly(_orthogonal, ahead, alike[0])
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        torch._foreach_mul_(mine, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(mine, list(steps.unbind(0)), alpha=-rate)


def _orthogonal(stacks: Tensor) -> Tensor:
    """`orthogonalise` for any number of leading axes."""
    return orthogonalise(_working(stacks.flatten(0, -3))).to(stacks.dtype).view_as(stacks)


def _by_shape(parameters: Iterable[Tensor]) -> dict[torch.Size, list[Tensor]]:
    alike: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        alike.setdefault(parameter.shape, []).append(parameter)
    return alike


def _working(matrices_XMN: Tensor) -> Tensor:
    """Single precision in bfloat16, which is enough for the iteration (Jordan et al. 2024), where the device multiplies it in hardware.

    A CPU does with AMX: there the iteration takes a third to a fifth of the time that it takes in float32.
    """
    kind = matrices_XMN.device.type
    fast = kind == "cuda" or (kind == "cpu" and torch.cpu._is_amx_tile_supported())
    return matrices_XMN.bfloat16() if fast and matrices_XMN.dtype == torch.float32 else matrices_XMN
