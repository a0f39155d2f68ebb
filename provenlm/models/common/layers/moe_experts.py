"""Compute a mixture of SwiGLU experts for routed tokens.

Tokens are sorted by expert, each expert multiplies its own run of rows, and the results are gathered back. Both moves are gathers
in the backward pass too (no atomic additions), so a step is reproducible bit for bit on a GPU as well.

Shapes: N tokens, D hidden size, E experts, K experts a token, F intermediate size, R = N·K rows, one for each (token, expert) pair.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.autocast import autocast_dtype
from provenlm.models.common.layers.feed_forward import silu_mul, silu_mul_backward

ExpertsImpl = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

# oneDNN compiles a matrix product below float32 for its shape. With runs of arbitrary length nearly every product of every step would be
# compiled, and a thousand kernels cached: a quarter of the step time and gigabytes. Lengths that are multiples of this recur.
RUN_MULTIPLE = 64


class TokenPermutation(NamedTuple):
    """Map rows to experts.

    `order_R` sorts rows by expert, `inverse_R` undoes it, `counts_E` are the rows of each expert. `order_R` may be longer than R:
    an entry R stands for a row of zeros that pads the run of an expert; `counts_E` counts it.
    """

    order_R: Tensor
    inverse_R: Tensor
    counts_E: Tensor


def plan_permutation(topk_ids_NK: Tensor, num_experts: int) -> TokenPermutation:
    """Compute the permutation of one routing.

    Shapes do not depend on values, so there is no device synchronisation and no graph break.
    """
    flat_R = topk_ids_NK.flatten()
    order_R = torch.argsort(flat_R, stable=True)
    inverse_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(order_R.numel(), device=order_R.device))
    return TokenPermutation(order_R, inverse_R, count_tokens_per_expert(topk_ids_NK, num_experts))


def pad_to_multiple(permutation: TokenPermutation, topk_ids_NK: Tensor, multiple: int) -> TokenPermutation:
    """Pad the run of each expert to a multiple of `multiple`.

    On CUDA this synchronises with the device.
    """
    padded_E = (permutation.counts_E + multiple - 1) // multiple * multiple
    shift_E = (padded_E - permutation.counts_E).cumsum(0) - (padded_E - permutation.counts_E)  # padding of the earlier runs
    inverse_R = permutation.inverse_R + shift_E[topk_ids_NK.flatten()]
    num_rows = inverse_R.numel()
    order_R = inverse_R.new_full((int(padded_E.sum()),), num_rows).scatter_(
        0, inverse_R, torch.arange(num_rows, device=inverse_R.device)
    )
    return TokenPermutation(order_R, inverse_R, padded_E)


def count_tokens_per_expert(topk_ids_NK: Tensor, num_experts: int) -> Tensor:
    """Count the (token, expert) pairs of each expert."""
    return (topk_ids_NK.reshape(-1, 1) == torch.arange(num_experts, device=topk_ids_NK.device)).sum(0)


class _Permute(torch.autograd.Function):
    """Gather states_ND to rows_RD in expert order.

    Backward: gather by the inverse and sum the K rows of a token.
    """

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, order_R: Tensor, inverse_R: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse_R)
        ctx.top_k = top_k
        return _gather_rows(states_ND, order_R // top_k, order_R.numel() > inverse_R.numel())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse_R,) = ctx.saved_tensors
        gradient_RD = gradients[0].index_select(0, inverse_R)
        return gradient_RD.view(-1, ctx.top_k, gradient_RD.shape[-1]).sum(1), None, None, None


class _Unpermute(torch.autograd.Function):
    """Gather rows_RD from expert order to token order; backward: the opposite gather."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, order_R: Tensor, inverse_R: Tensor) -> Tensor:
        ctx.save_for_backward(order_R)
        ctx.padded = order_R.numel() > inverse_R.numel()
        return rows_RD.index_select(0, inverse_R)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (order_R,) = ctx.saved_tensors
        return _gather_rows(gradients[0], order_R, ctx.padded), None, None


def _gather_rows(rows_XD: Tensor, index_R: Tensor, padded: bool) -> Tensor:
    """Return the rows at `index_R`.

    If `padded`, the index X stands for a row of zeros.
    """
    return (F.pad(rows_XD, (0, 0, 0, 1)) if padded else rows_XD).index_select(0, index_R)


def permute(states_ND: Tensor, permutation: TokenPermutation, top_k: int) -> Tensor:
    """Return rows_RD in expert order: each token's state once for each expert."""
    rows_RD: Tensor = _Permute.apply(states_ND, permutation.order_R, permutation.inverse_R, top_k)  # type: ignore[no-untyped-call]
    return rows_RD


def unpermute(rows_RD: Tensor, permutation: TokenPermutation) -> Tensor:
    """Return rows_RD in token order."""
    out_RD: Tensor = _Unpermute.apply(rows_RD, permutation.order_R, permutation.inverse_R)  # type: ignore[no-untyped-call]
    return out_RD


def swiglu(rows_RD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor) -> Tensor:
    """Compute down · (silu(gate · x) * (up · x)) with gate and up in one matrix."""
    gate_RF, up_RF = F.linear(rows_RD, gate_up_2FD).chunk(2, -1)
    return F.linear(F.silu(gate_RF) * up_RF, down_DF)


def experts_reference(states_ND: Tensor, topk_ids_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Compute expert by expert, as the definition says: the reference."""
    out_ND = torch.zeros_like(states_ND)
    for expert in range(gate_up_E2FD.shape[0]):
        token_indices, slots = (topk_ids_NK == expert).nonzero(as_tuple=True)
        expert_out = swiglu(states_ND[token_indices], gate_up_E2FD[expert], down_EDF[expert])
        out_ND = out_ND.index_add(0, token_indices, expert_out * weights_NK[token_indices, slots, None])
    return out_ND


def experts_split(states_ND: Tensor, topk_ids_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Compute sorted rows with one product an expert."""
    permutation = plan_permutation(topk_ids_NK, gate_up_E2FD.shape[0])
    if states_ND.dtype.itemsize < 4:
        permutation = pad_to_multiple(permutation, topk_ids_NK, RUN_MULTIPLE)
    rows_RD = permute(states_ND, permutation, topk_ids_NK.shape[1])
    out_RD: Tensor = _SplitSwiGLU.apply(rows_RD, gate_up_E2FD, down_EDF, permutation.counts_E.tolist())  # type: ignore[no-untyped-call]
    return _combine(out_RD, permutation, weights_NK)


class _SplitSwiGLU(torch.autograd.Function):
    """Apply each expert's SwiGLU to its own run of rows.

    Autograd through indexing of the stacked matrices would sum E zero-filled gradients of full size. The matrices may have a wider dtype
    than the rows: each is cast for its product, and its gradient is cast back, one expert at a time.
    """

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor, run_lengths: list[int]) -> Tensor:
        out_RD, gate_ups = torch.empty_like(rows_RD), []
        for e, (rows, run_out) in enumerate(zip(torch.split(rows_RD, run_lengths), torch.split(out_RD, run_lengths), strict=True)):
            gate_ups.append(rows @ gate_up_E2FD[e].to(rows.dtype).T)
            gate, up = gate_ups[-1].chunk(2, -1)
            torch.mm(silu_mul(gate, up), down_EDF[e].to(rows.dtype).T, out=run_out)
        ctx.save_for_backward(rows_RD, gate_up_E2FD, down_EDF, *gate_ups)
        ctx.counts = run_lengths
        return out_RD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows_RD, gate_up_E2FD, down_EDF, *gate_ups = ctx.saved_tensors
        grad_rows_RD, grad_gate_up_E2FD, grad_down_EDF = map(torch.empty_like, (rows_RD, gate_up_E2FD, down_EDF))
        runs = zip(*(torch.split(tensor, ctx.counts) for tensor in (rows_RD, gradients[0], grad_rows_RD)), gate_ups, strict=True)
        for e, (rows, grad_out, grad_rows, gate_up) in enumerate(runs):
            gate, up = gate_up.chunk(2, -1)
            grad_gate_up = torch.empty_like(gate_up)
            grad_gate, grad_up = grad_gate_up.chunk(2, -1)
            activation = silu_mul_backward(grad_out @ down_EDF[e].to(rows.dtype), gate, up, grad_gate, grad_up)
            _matmul_into(grad_out.T, activation, grad_down_EDF[e])
            _matmul_into(grad_gate_up.T, rows, grad_gate_up_E2FD[e])
            torch.mm(grad_gate_up, gate_up_E2FD[e].to(rows.dtype), out=grad_rows)
        return grad_rows_RD, grad_gate_up_E2FD, grad_down_EDF, None


def _matmul_into(lhs: Tensor, rhs: Tensor, out: Tensor) -> None:
    """Compute lhs · rhs into `out`, which may have a wider dtype."""
    if out.dtype == lhs.dtype:
        torch.mm(lhs, rhs, out=out)
    else:
        out.copy_(lhs @ rhs)


def experts_grouped_mm(
    states_ND: Tensor, topk_ids_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    """Compute sorted rows with one grouped product for all experts.

    It needs shapes that `supports_grouped_mm` accepts.
    """
    gate_up_E2FD, down_EDF = gate_up_E2FD.to(states_ND.dtype), down_EDF.to(states_ND.dtype)
    permutation = plan_permutation(topk_ids_NK, gate_up_E2FD.shape[0])
    ends_E = permutation.counts_E.cumsum(0).to(torch.int32)
    rows_RD = permute(states_ND, permutation, topk_ids_NK.shape[1])
    gate_RF, up_RF = F.grouped_mm(rows_RD, gate_up_E2FD.transpose(1, 2), offs=ends_E).chunk(2, -1)
    out_RD = F.grouped_mm(F.silu(gate_RF) * up_RF, down_EDF.transpose(1, 2), offs=ends_E)
    return _combine(out_RD, permutation, weights_NK)


def _combine(out_RD: Tensor, permutation: TokenPermutation, weights_NK: Tensor) -> Tensor:
    out_NKD = unpermute(out_RD, permutation).view(*weights_NK.shape, -1)
    return (out_NKD * weights_NK[..., None]).sum(1)


def supports_grouped_mm(dtype: torch.dtype, hidden_size: int, intermediate_size: int) -> bool:
    """Return whether torch's grouped product supports these shapes.

    It needs float32, bfloat16 or float16, and rows of a multiple of 16 bytes.
    """
    supported = dtype in (torch.float32, torch.bfloat16, torch.float16) and hasattr(F, "grouped_mm")
    return supported and hidden_size * dtype.itemsize % 16 == 0 and intermediate_size * dtype.itemsize % 16 == 0


def select_impl(device: torch.device, dtype: torch.dtype, hidden_size: int, intermediate_size: int) -> ExpertsImpl:
    """Return the fastest supported implementation.

    That is grouped products on CUDA and one product an expert on a CPU.
    """
    return (
        experts_grouped_mm
        if device.type == "cuda" and supports_grouped_mm(dtype, hidden_size, intermediate_size)
        else experts_split
    )


class Experts(nn.Module):
    """Apply E SwiGLU experts to routed tokens.

    Names and layout are those of transformers 5: `gate_up_proj` (E, 2F, D), `down_proj` (E, D, F).
    """

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, states_ND: Tensor, topk_ids_NK: Tensor, weights_NK: Tensor) -> Tensor:
        dtype = autocast_dtype(states_ND)
        impl = select_impl(states_ND.device, dtype, states_ND.shape[-1], self.down_proj.shape[-1])
        with torch.autocast(states_ND.device.type, enabled=False):
            return impl(states_ND.to(dtype), topk_ids_NK, weights_NK.to(dtype), self.gate_up_proj, self.down_proj)


def num_experts_params(num_experts: int, hidden_size: int, intermediate_size: int) -> int:
    """Count the parameters of `Experts`."""
    return num_experts * 3 * hidden_size * intermediate_size
