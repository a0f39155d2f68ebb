"""States, the head's matrix and targets in, the mean cross-entropy out, without ever holding all logits.

The gradients are worked out while the logits of a piece are at hand, so nothing is computed twice. A piece has at least D tokens: with
fewer, adding up the head's gradient would take longer than computing it, and with D no piece is larger than the head itself.

Shapes: N tokens, D hidden, V vocabulary, C tokens of one piece.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from provenlm.models.common.layers.autocast import working_type

PIECE = {"cpu": 1 << 22, "cuda": 1 << 27}  # logits held at a time, 16 MB and 512 MB in float32; more if they were fewer rows than D


def cross_entropy(states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore: int) -> Tensor:
    """Mean over the targets that are not `ignore` of -log softmax(states · headᵀ)[target], in nats; float32 or wider.

    Products are taken in autocast's type where autocast is on, sums and the softmax never below float32.
    """
    return smoothed_cross_entropy(states_ND, head_VD, targets_N, ignore, 0.0)[0]


def smoothed_cross_entropy(
    states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """(what to make small, the plain cross-entropy, which no gradient reaches); both are means as `cross_entropy` gives them.

    Of each target `smoothing` is spread evenly over the vocabulary (Szegedy et al. 2015, arXiv 1512.00567); with 0 the two are one.
    """
    kind = states_ND.device.type
    dtype = working_type(states_ND)
    rows = max(head_VD.shape[1], PIECE.get(kind, PIECE["cpu"]) // head_VD.shape[0])
    with torch.autocast(kind, enabled=False):
        states_ND, head_VD = states_ND.to(dtype), head_VD.to(dtype)
        if torch.is_grad_enabled():
            both: tuple[Tensor, Tensor] = _InPieces.apply(states_ND, head_VD, targets_N, ignore, smoothing, rows)  # type: ignore[no-untyped-call]
            return both
        pieces = [_piece(logits_CV, targets_N[piece], ignore, smoothing) for piece, logits_CV in _logits(states_ND, head_VD, rows)]
        count = (targets_N != ignore).sum()
        return torch.stack([piece.loss for piece in pieces]).sum() / count, torch.stack(
            [piece.nats for piece in pieces]
        ).sum() / count


def _logits(states_ND: Tensor, head_VD: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    wide = torch.promote_types(states_ND.dtype, torch.float32)
    for first in range(0, len(states_ND), rows):
        piece = slice(first, first + rows)
        yield piece, F.linear(states_ND[piece], head_VD).to(wide)


class _Piece(NamedTuple):
    """Sums over one piece; log softmax, in the memory of the logits; targets as a column, with 0 for targets that are ignored."""

    loss: Tensor
    nats: Tensor
    chances_CV: Tensor
    column_C1: Tensor


def _piece(logits_CV: Tensor, targets_C: Tensor, ignore: int, smoothing: float) -> _Piece:
    ignored_C1 = (targets_C == ignore)[:, None]
    column_C1 = targets_C[:, None].masked_fill(ignored_C1, 0)
    chances_CV = torch.log_softmax(logits_CV, -1, out=logits_CV)
    nats = loss = -chances_CV.gather(1, column_C1).masked_fill(ignored_C1, 0.0).sum()
    if smoothing:
        even = -chances_CV.mean(-1, keepdim=True).masked_fill(ignored_C1, 0.0).sum()
        loss = (1 - smoothing) * nats + smoothing * even
    return _Piece(loss, nats, chances_CV, column_C1)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore: int, smoothing: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(states_ND.dtype, torch.float32)
        to_states_ND, to_head_VD = torch.empty_like(states_ND), torch.zeros_like(head_VD, dtype=wide)
        count = (targets_N != ignore).sum()
        total, plain = (torch.zeros((), dtype=wide, device=states_ND.device) for _ in range(2))
        for piece, logits_CV in _logits(states_ND, head_VD, rows):
            found = _piece(logits_CV, targets_N[piece], ignore, smoothing)
            total += found.loss
            plain += found.nats
            slope_CV = found.chances_CV.exp_()
            if smoothing:
                slope_CV.sub_(smoothing / head_VD.shape[0])
            slope_CV.scatter_add_(1, found.column_C1, slope_CV.new_full(found.column_C1.shape, smoothing - 1.0))
            slope_CV.masked_fill_((targets_N[piece] == ignore)[:, None], 0.0)
            narrow_CV = slope_CV.to(states_ND.dtype)
            to_states_ND[piece] = narrow_CV @ head_VD
            if wide == states_ND.dtype:
                to_head_VD.addmm_(narrow_CV.T, states_ND[piece])
            else:
                to_head_VD += narrow_CV.T @ states_ND[piece]
        ctx.save_for_backward(to_states_ND, to_head_VD, count)
        mean, plain = total / count, plain / count
        ctx.mark_non_differentiable(plain)
        return mean, plain

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_states_ND, to_head_VD, count = ctx.saved_tensors
        scale = gradients[0] / count
        return (to_states_ND * scale).to(to_states_ND.dtype), (to_head_VD * scale).to(to_states_ND.dtype), None, None, None, None
