"""Experts: token states, the experts chosen for each and their weights in; the weighted sum of what those experts say out.

Tokens are sorted by expert, each expert multiplies its own run of rows, and the results are gathered back. Both moves are
gathers in the backward pass too (no atomic additions), so a step repeats bit for bit on a GPU as well.

Shapes: N tokens, D hidden, E experts, K experts a token, F inner width, R = N·K rows, one for each (token, expert) pair.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.autocast import working_type
from provenlm.models.common.layers.feed_forward import gated, gated_back

Way = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


# Below float32 a CPU's product is compiled for its shape (oneDNN): runs of any length would compile nearly every product of every
# step anew and keep a thousand of them, which took a quarter of a step and gigabytes. Runs of a multiple of this recur.
RUN = 64


class Plan(NamedTuple):
    """Where each row goes: `order_R` sorts rows by expert, `inverse_R` undoes it, `counts_E` rows fall to each expert.

    `order_R` may be longer than R: where it holds R, a row of zeros fills up the run of an expert, which `counts_E` then counts.
    """

    order_R: Tensor
    inverse_R: Tensor
    counts_E: Tensor


def plan(chosen_NK: Tensor, experts: int) -> Plan:
    """The plan of one dispatch. Shapes do not depend on values: no wait for the device, no break in a compiled graph."""
    flat_R = chosen_NK.flatten()
    order_R = torch.argsort(flat_R, stable=True)
    inverse_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(order_R.numel(), device=order_R.device))
    return Plan(order_R, inverse_R, counts(chosen_NK, experts))


def filled(planned: Plan, chosen_NK: Tensor, run: int) -> Plan:
    """The same plan with each expert's run filled up to a multiple of `run`. On CUDA this waits for the device."""
    filled_E = (planned.counts_E + run - 1) // run * run
    shift_E = (filled_E - planned.counts_E).cumsum(0) - (filled_E - planned.counts_E)  # by what fills the runs before
    inverse_R = planned.inverse_R + shift_E[chosen_NK.flatten()]
    rows = inverse_R.numel()
    order_R = inverse_R.new_full((int(filled_E.sum()),), rows).scatter_(0, inverse_R, torch.arange(rows, device=inverse_R.device))
    return Plan(order_R, inverse_R, filled_E)


def counts(chosen_NK: Tensor, experts: int) -> Tensor:
    """counts_E: how many (token, expert) pairs fall to each expert."""
    return (chosen_NK.reshape(-1, 1) == torch.arange(experts, device=chosen_NK.device)).sum(0)


class _Permute(torch.autograd.Function):
    """states_ND to rows_RD in expert order. Backward: gather by the inverse and sum each token's K rows."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, order_R: Tensor, inverse_R: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(inverse_R)
        ctx.chosen = chosen
        return _taken(states_ND, order_R // chosen, order_R.numel() > inverse_R.numel())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse_R,) = ctx.saved_tensors
        gradient_RD = gradients[0].index_select(0, inverse_R)
        return gradient_RD.view(-1, ctx.chosen, gradient_RD.shape[-1]).sum(1), None, None, None


class _Unpermute(torch.autograd.Function):
    """rows_RD in expert order to rows_RD in token order. Backward: the same gather the other way."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, order_R: Tensor, inverse_R: Tensor) -> Tensor:
        ctx.save_for_backward(order_R)
        ctx.filled = order_R.numel() > inverse_R.numel()
        return rows_RD.index_select(0, inverse_R)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (order_R,) = ctx.saved_tensors
        return _taken(gradients[0], order_R, ctx.filled), None, None


def _taken(rows_XD: Tensor, index_R: Tensor, filled: bool) -> Tensor:
    """The rows at `index_R`; where `filled`, X stands for a row of zeros."""
    return (F.pad(rows_XD, (0, 0, 0, 1)) if filled else rows_XD).index_select(0, index_R)


def permute(states_ND: Tensor, planned: Plan, chosen: int) -> Tensor:
    """rows_RD in expert order: each token's state once for each of its `chosen` experts."""
    rows_RD: Tensor = _Permute.apply(states_ND, planned.order_R, planned.inverse_R, chosen)  # type: ignore[no-untyped-call]
    return rows_RD


def unpermute(rows_RD: Tensor, planned: Plan) -> Tensor:
    """rows_RD back in token order."""
    back_RD: Tensor = _Unpermute.apply(rows_RD, planned.order_R, planned.inverse_R)  # type: ignore[no-untyped-call]
    return back_RD


def swiglu(rows_RD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor) -> Tensor:
    """down · (silu(gate · x) * (up · x)) (arXiv 2002.05202); gate and up lie one above the other."""
    gate_RF, up_RF = F.linear(rows_RD, gate_up_2FD).chunk(2, -1)
    return F.linear(F.silu(gate_RF) * up_RF, down_DF)


def by_loop(states_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """The definition, expert by expert: what the faster ways are checked against."""
    out_ND = torch.zeros_like(states_ND)
    for expert in range(gate_up_E2FD.shape[0]):
        tokens, places = (chosen_NK == expert).nonzero(as_tuple=True)
        said = swiglu(states_ND[tokens], gate_up_E2FD[expert], down_EDF[expert])
        out_ND = out_ND.index_add(0, tokens, said * weights_NK[tokens, places, None])
    return out_ND


def by_split(states_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Sorted rows, one product an expert, each written where it belongs: nothing is gathered or added up afterwards."""
    planned = plan(chosen_NK, gate_up_E2FD.shape[0])
    if states_ND.dtype.itemsize < 4:
        planned = filled(planned, chosen_NK, RUN)
    rows_RD = permute(states_ND, planned, chosen_NK.shape[1])
    said_RD: Tensor = _Runs.apply(rows_RD, gate_up_E2FD, down_EDF, planned.counts_E.tolist())  # type: ignore[no-untyped-call]
    return _combine(said_RD, planned, weights_NK)


class _Runs(torch.autograd.Function):
    """Each expert's SwiGLU on its own run of rows. Indexing the stacks would add up E zero-filled gradients of their whole size.

    The matrices may be wider than the rows: each is rounded for its product, and its gradient widened, one expert at a time.
    """

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor, counts: list[int]) -> Tensor:
        said_RD, inners = torch.empty_like(rows_RD), []
        for e, (rows, said) in enumerate(zip(torch.split(rows_RD, counts), torch.split(said_RD, counts), strict=True)):
            inners.append(rows @ gate_up_E2FD[e].to(rows.dtype).T)
            gate, up = inners[-1].chunk(2, -1)
            torch.mm(gated(gate, up), down_EDF[e].to(rows.dtype).T, out=said)
        ctx.save_for_backward(rows_RD, gate_up_E2FD, down_EDF, *inners)
        ctx.counts = counts
        return said_RD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows_RD, gate_up_E2FD, down_EDF, *inners = ctx.saved_tensors
        to_rows_RD, to_gate_up_E2FD, to_down_EDF = map(torch.empty_like, (rows_RD, gate_up_E2FD, down_EDF))
        runs = zip(*(torch.split(each, ctx.counts) for each in (rows_RD, gradients[0], to_rows_RD)), inners, strict=True)
        for e, (rows, slope, to_rows, inner) in enumerate(runs):
            gate, up = inner.chunk(2, -1)
            to_inner = torch.empty_like(inner)
            to_gate, to_up = to_inner.chunk(2, -1)
            product = gated_back(slope @ down_EDF[e].to(rows.dtype), gate, up, to_gate, to_up)
            _product(slope.T, product, to_down_EDF[e])
            _product(to_inner.T, rows, to_gate_up_E2FD[e])
            torch.mm(to_inner, gate_up_E2FD[e].to(rows.dtype), out=to_rows)
        return to_rows_RD, to_gate_up_E2FD, to_down_EDF, None


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left · right into `out`, which may be of a wider type."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def by_grouped(states_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Sorted rows, one grouped product for all experts. D and F must be multiples of 16 bytes (see `grouped_fits`)."""
    gate_up_E2FD, down_EDF = gate_up_E2FD.to(states_ND.dtype), down_EDF.to(states_ND.dtype)
    planned = plan(chosen_NK, gate_up_E2FD.shape[0])
    ends_E = planned.counts_E.cumsum(0).to(torch.int32)
    rows_RD = permute(states_ND, planned, chosen_NK.shape[1])
    gate_RF, up_RF = F.grouped_mm(rows_RD, gate_up_E2FD.transpose(1, 2), offs=ends_E).chunk(2, -1)
    said_RD = F.grouped_mm(F.silu(gate_RF) * up_RF, down_EDF.transpose(1, 2), offs=ends_E)
    return _combine(said_RD, planned, weights_NK)


def _combine(said_RD: Tensor, planned: Plan, weights_NK: Tensor) -> Tensor:
    said_NKD = unpermute(said_RD, planned).view(*weights_NK.shape, -1)
    return (said_NKD * weights_NK[..., None]).sum(1)


def grouped_fits(dtype: torch.dtype, hidden: int, inner: int) -> bool:
    """Whether torch's grouped product takes these shapes: float32, bfloat16 or float16 with rows of a multiple of 16 bytes."""
    known = dtype in (torch.float32, torch.bfloat16, torch.float16) and hasattr(F, "grouped_mm")
    return known and hidden * dtype.itemsize % 16 == 0 and inner * dtype.itemsize % 16 == 0


def way_for(device: torch.device, dtype: torch.dtype, hidden: int, inner: int) -> Way:
    """The fastest way that works: on a CPU one product an expert beats the grouped product, on CUDA it is the other way round."""
    return by_grouped if device.type == "cuda" and grouped_fits(dtype, hidden, inner) else by_split


class Experts(nn.Module):
    """E SwiGLU experts in the names and layout of transformers 5: `gate_up_proj` (E, 2F, D), `down_proj` (E, D, F)."""

    def __init__(self, experts: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, inner))

    def forward(self, states_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor) -> Tensor:
        dtype = working_type(states_ND)
        way = way_for(states_ND.device, dtype, states_ND.shape[-1], self.down_proj.shape[-1])
        with torch.autocast(states_ND.device.type, enabled=False):
            return way(states_ND.to(dtype), chosen_NK, weights_NK.to(dtype), self.gate_up_proj, self.down_proj)


def parameters(experts: int, hidden: int, inner: int) -> int:
    """How many parameters `Experts` has."""
    return experts * 3 * hidden * inner
