"""Implement the Muon optimizer: orthogonalised momentum for matrices.

Shapes: X matrices of one shape, M rows, N columns.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.training.distributed.fsdp import apply_on_full_matrix, local_tensor

# Polar Express (arXiv 2505.16932, table of the degree-5 scheme): optimal odd quintics a·x + b·x³ + c·x⁵, applied in order, for
# singular values from 1e-3 to 1.
QUINTICS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
HEADROOM = 1.02  # keeps the largest singular value below 1 despite rounding


def orthogonalize(matrices_XMN: Tensor) -> Tensor:
    """Return nearly the closest matrix with orthonormal rows or columns to each.

    Singular values of the result are about 0.7 to 1.3.
    """
    tall = matrices_XMN.shape[-2] > matrices_XMN.shape[-1]
    wide_XMN = matrices_XMN.mT if tall else matrices_XMN
    wide_XMN = wide_XMN / (wide_XMN.norm(dim=(-2, -1), keepdim=True) * HEADROOM + 1e-7)
    for a, b, c in QUINTICS:
        gram_XMM = wide_XMN @ wide_XMN.mT
        odd_XMM = torch.baddbmm(gram_XMM, gram_XMM, gram_XMM, beta=b, alpha=c)
        wide_XMN = torch.baddbmm(wide_XMN, odd_XMM, wide_XMN, beta=a)
    return wide_XMN.mT if tall else wide_XMN


class Muon(torch.optim.Optimizer):
    """Update with orthogonalised Nesterov momentum (Jordan et al. 2024).

    For parameters with two or more axes; leading axes index separate matrices. A step is lr · √max(1, M/N) times the orthogonal factor; weight
    decay is decoupled. Sharded matrices are gathered, each in one process.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Muon does not re-evaluate the loss"
        for group in self.param_groups:
            for params in _group_by_shape(p for p in group["params"] if p.grad is not None).values():
                self._step_same_shape(params, group)

    def _step_same_shape(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape, with batched matrix products."""
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
    """Apply `orthogonalize` to any number of leading axes."""
    return orthogonalize(_to_compute_dtype(stacks.flatten(0, -3))).to(stacks.dtype).view_as(stacks)


def _group_by_shape(params: Iterable[Tensor]) -> dict[torch.Size, list[Tensor]]:
    """Group parameters by shape."""
    groups: dict[torch.Size, list[Tensor]] = {}
    for parameter in params:
        groups.setdefault(parameter.shape, []).append(parameter)
    return groups


def _to_compute_dtype(matrices_XMN: Tensor) -> Tensor:
    """Convert float32 to bfloat16 where the device multiplies it in hardware.

    bfloat16 is accurate enough for the iteration (Jordan et al. 2024). CPUs with AMX take a third to a fifth of the float32 time.
    """
    device_type = matrices_XMN.device.type
    has_fast_bf16 = device_type == "cuda" or (device_type == "cpu" and torch.cpu._is_amx_tile_supported())
    return matrices_XMN.bfloat16() if has_fast_bf16 and matrices_XMN.dtype == torch.float32 else matrices_XMN
