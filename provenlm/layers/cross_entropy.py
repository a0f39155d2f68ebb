"""States, the head's matrix and targets in, the mean cross-entropy out, without ever holding all logits.

The gradients are worked out while the logits of a piece are at hand, so nothing is computed twice.

Shapes: N tokens, D hidden, V vocabulary, C tokens of one piece.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PIECE = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits held at a time: 4 MB in float32 stay in a CPU's cache; a GPU wants wide products


def cross_entropy(states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore: int) -> Tensor:
    """Mean over the targets that are not `ignore` of -log softmax(states · headᵀ)[target], in nats; float32 or wider.

    Products are taken in autocast's type where autocast is on, sums and the softmax never below float32.
    """
    kind = states_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states_ND.dtype
    rows = max(1, PIECE.get(kind, PIECE["cpu"]) // head_VD.shape[0])
    with torch.autocast(kind, enabled=False):
        states_ND, head_VD = states_ND.to(dtype), head_VD.to(dtype)
        if torch.is_grad_enabled():
            mean: Tensor = _InPieces.apply(states_ND, head_VD, targets_N, ignore, rows)  # type: ignore[no-untyped-call]
            return mean
        losses = [_piece(logits_CV, targets_N[piece], ignore)[0] for piece, logits_CV in _logits(states_ND, head_VD, rows)]
        return torch.stack(losses).sum() / (targets_N != ignore).sum()


def _logits(states_ND: Tensor, head_VD: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
    wide = torch.promote_types(states_ND.dtype, torch.float32)
    for first in range(0, len(states_ND), rows):
        piece = slice(first, first + rows)
        yield piece, F.linear(states_ND[piece], head_VD).to(wide)


def _piece(logits_CV: Tensor, targets_C: Tensor, ignore: int) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of losses, log Σ exp as a column, targets as a column with 0 for those that are ignored)."""
    column_C1 = targets_C.masked_fill(targets_C == ignore, 0)[:, None]
    partition_C1 = logits_CV.logsumexp(-1, keepdim=True)
    loss_C1 = (partition_C1 - logits_CV.gather(1, column_C1)).masked_fill((targets_C == ignore)[:, None], 0.0)
    return loss_C1.sum(), partition_C1, column_C1


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore: int, rows: int) -> Tensor:
        wide = torch.promote_types(states_ND.dtype, torch.float32)
        to_states_ND, to_head_VD = torch.empty_like(states_ND), torch.zeros_like(head_VD, dtype=wide)
        count = (targets_N != ignore).sum()
        total = torch.zeros((), dtype=wide, device=states_ND.device)
        for piece, logits_CV in _logits(states_ND, head_VD, rows):
            loss, partition_C1, column_C1 = _piece(logits_CV, targets_N[piece], ignore)
            total += loss
            slope_CV = logits_CV.sub_(partition_C1).exp_()
            slope_CV.scatter_add_(1, column_C1, torch.full_like(partition_C1, -1.0))
            slope_CV.masked_fill_((targets_N[piece] == ignore)[:, None], 0.0)
            narrow_CV = slope_CV.to(states_ND.dtype)
            to_states_ND[piece] = narrow_CV @ head_VD
            if wide == states_ND.dtype:
                to_head_VD.addmm_(narrow_CV.T, states_ND[piece])
            else:
                to_head_VD += narrow_CV.T @ states_ND[piece]
        ctx.save_for_backward(to_states_ND, to_head_VD, count)
        return total / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        to_states_ND, to_head_VD, count = ctx.saved_tensors
        scale = gradients[0] / count
        return (to_states_ND * scale).to(to_states_ND.dtype), (to_head_VD * scale).to(to_states_ND.dtype), None, None, None
