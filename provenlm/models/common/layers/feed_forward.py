"""Compute the dense feed-forward layers of a block.

Shapes: B batch, T positions, N tokens, D hidden size, F intermediate size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.autocast import autocast_dtype


class SwiGLU(nn.Module):
    """Compute down · (silu(gate · x) * (up · x)) (arXiv 2002.05202).

    The matrices have Llama's names and no biases.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        dtype = autocast_dtype(hidden_BTD)
        matrices = (linear.weight.to(dtype) for linear in (self.gate_proj, self.up_proj, self.down_proj))
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            out_ND: Tensor = _SwiGLU.apply(hidden_BTD.flatten(0, 1).to(dtype), *matrices)  # type: ignore[no-untyped-call]
        return out_ND.view_as(hidden_BTD), None


class _SwiGLU(torch.autograd.Function):
    """Save the outputs of the gate and up products and recompute the rest.

    That takes half of the memory of torch's autograd.
    """

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
        gate_NF, up_NF = states_ND @ gate_FD.T, states_ND @ up_FD.T
        ctx.save_for_backward(states_ND, gate_FD, up_FD, down_DF, gate_NF, up_NF)
        return silu_mul(gate_NF, up_NF) @ down_DF.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        states_ND, gate_FD, up_FD, down_DF, gate_NF, up_NF = ctx.saved_tensors
        _, needs_gate, needs_up, needs_down = ctx.needs_input_grad
        grad_gate_NF, grad_up_NF = torch.empty_like(gate_NF), torch.empty_like(up_NF)
        activation_NF = silu_mul_backward(gradients[0] @ down_DF, gate_NF, up_NF, grad_gate_NF, grad_up_NF)
        return (
            torch.addmm(grad_gate_NF @ gate_FD, grad_up_NF, up_FD),
            grad_gate_NF.T @ states_ND if needs_gate else None,
            grad_up_NF.T @ states_ND if needs_up else None,
            gradients[0].T @ activation_NF if needs_down else None,
        )


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """Compute silu(gate) * up."""
    return F.silu(gate).mul_(up)


def silu_mul_backward(grad_out: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor) -> Tensor:
    """Write the gradients of `silu_mul` to `grad_gate` and `grad_up`.

    Overwrites `grad_out` and returns silu(gate) * up.
    """
    silu = F.silu(gate)
    torch.mul(grad_out, silu, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad_out.mul_(up), gate, grad_input=grad_gate)
    return silu.mul_(up)


class MLP(nn.Module):
    """Compute down · gelu(up · x) with biases, as GPT-2 does.

    GELU is in its tanh form (arXiv 1606.08415).
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size)
        self.down_proj = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        out_BTD: Tensor = self.down_proj(F.gelu(self.up_proj(hidden_BTD), approximate="tanh"))
        return out_BTD, None


def num_swiglu_params(hidden_size: int, intermediate_size: int) -> int:
    """Count the parameters of `SwiGLU`."""
    return 3 * hidden_size * intermediate_size


def num_mlp_params(hidden_size: int, intermediate_size: int) -> int:
    """Count the parameters of `MLP`."""
    return 2 * hidden_size * intermediate_size + hidden_size + intermediate_size
