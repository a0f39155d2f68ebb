"""The dense feed-forward halves of a block: hidden states in, what to add to them out.

Shapes: B batch, T positions, N tokens, D hidden, F inner width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.autocast import working_type


class SwiGLU(nn.Module):
    """down · (silu(gate · x) * (up · x)) (arXiv 2002.05202), in the names of Llama, without bias."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        dtype = working_type(hidden_BTD)
        matrices = (each.weight.to(dtype) for each in (self.gate_proj, self.up_proj, self.down_proj))
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            said_ND: Tensor = _SwiGLU.apply(hidden_BTD.flatten(0, 1).to(dtype), *matrices)  # type: ignore[no-untyped-call]
        return said_ND.view_as(hidden_BTD), None


class _SwiGLU(torch.autograd.Function):
    """Keeps what the two upper products gave and works out the rest again, so that half of what torch would keep is kept."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
        gate_NF, up_NF = states_ND @ gate_FD.T, states_ND @ up_FD.T
        ctx.save_for_backward(states_ND, gate_FD, up_FD, down_DF, gate_NF, up_NF)
        return gated(gate_NF, up_NF) @ down_DF.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        states_ND, gate_FD, up_FD, down_DF, gate_NF, up_NF = ctx.saved_tensors
        _, wants_gate, wants_up, wants_down = ctx.needs_input_grad
        to_gate_NF, to_up_NF = torch.empty_like(gate_NF), torch.empty_like(up_NF)
        product_NF = gated_back(gradients[0] @ down_DF, gate_NF, up_NF, to_gate_NF, to_up_NF)
        return (
            torch.addmm(to_gate_NF @ gate_FD, to_up_NF, up_FD),
            to_gate_NF.T @ states_ND if wants_gate else None,
            to_up_NF.T @ states_ND if wants_up else None,
            gradients[0].T @ product_NF if wants_down else None,
        )


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate).mul_(up)


def gated_back(slope: Tensor, gate: Tensor, up: Tensor, to_gate: Tensor, to_up: Tensor) -> Tensor:
    """Fill `to_gate` and `to_up` from the `slope` at `gated(gate, up)`, which is overwritten; what `gated` gave, once more."""
    silu = F.silu(gate)
    torch.mul(slope, silu, out=to_up)
    torch.ops.aten.silu_backward.grad_input(slope.mul_(up), gate, grad_input=to_gate)
    return silu.mul_(up)


class Perceptron(nn.Module):
    """down · gelu(up · x), both with bias, as GPT-2 has it: GELU by its tanh form (arXiv 1606.08415)."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, inner)
        self.down_proj = nn.Linear(inner, hidden)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        said_BTD: Tensor = self.down_proj(F.gelu(self.up_proj(hidden_BTD), approximate="tanh"))
        return said_BTD, None


def swiglu_parameters(hidden: int, inner: int) -> int:
    """How many parameters `SwiGLU` has."""
    return 3 * hidden * inner


def perceptron_parameters(hidden: int, inner: int) -> int:
    """How many parameters `Perceptron` has."""
    return 2 * hidden * inner + hidden + inner
