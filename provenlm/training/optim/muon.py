"""Muon: gradients of matrices in, steps whose singular values are all near one out.

Shapes: X matrices of one shape, M rows, N columns.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.training.distributed.fsdp import apply_on_full_matrix, local_tensor

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


def orthogonalize(matrices_XMN: Tensor) -> Tensor:
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
            for params in _group_by_shape(p for p in group["params"] if p.grad is not None).values():
                self._step_same_shape(params, group)

    def _step_same_shape(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One step of parameters of one shape, their matrices multiplied as one batch."""
        for parameter in params:
            self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        local_params = [local_tensor(p) for p in params]
        gradients = [local_tensor(p.grad) for p in params if p.grad is not None]
        momenta = [local_tensor(self.state[p]["momentum"]) for p in params]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov_grads = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        rows, columns = params[0].shape[-2:]
        steps = apply_on_full_matrix(_orthogonalize_stacks, nesterov_grads, params[0])
        lr = group["lr"] * max(1.0, rows / columns) ** 0.5
        torch._foreach_mul_(local_params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(local_params, list(steps.unbind(0)), alpha=-lr)


def _orthogonalize_stacks(stacks: Tensor) -> Tensor:
    """`orthogonalise` for any number of leading axes."""
    return orthogonalize(_to_compute_dtype(stacks.flatten(0, -3))).to(stacks.dtype).view_as(stacks)


def _group_by_shape(params: Iterable[Tensor]) -> dict[torch.Size, list[Tensor]]:
    groups: dict[torch.Size, list[Tensor]] = {}
    for parameter in params:
        groups.setdefault(parameter.shape, []).append(parameter)
    return groups


def _to_compute_dtype(matrices_XMN: Tensor) -> Tensor:
    """Single precision in bfloat16, which is enough for the iteration (Jordan et al. 2024), where the device multiplies it in hardware.

    A CPU does with AMX: there the iteration takes a third to a fifth of the time that it takes in float32.
    """
    device_type = matrices_XMN.device.type
    has_fast_bf16 = device_type == "cuda" or (device_type == "cpu" and torch.cpu._is_amx_tile_supported())
    return matrices_XMN.bfloat16() if has_fast_bf16 and matrices_XMN.dtype == torch.float32 else matrices_XMN
