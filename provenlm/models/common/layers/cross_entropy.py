"""Compute the mean cross-entropy of a linear output layer in chunks.

Never are all logits in memory. Gradients are computed while the logits of a chunk are in memory, so nothing is computed twice. A
chunk has at least D tokens: with fewer, accumulating the gradient of the output matrix would take longer than computing it; with D,
no chunk is larger than the matrix.

Shapes: N tokens, D hidden size, V vocabulary, C tokens of a chunk.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from provenlm.models.common.layers.autocast import autocast_dtype

# logits in memory at a time: 16 MB and 512 MB in float32; more where a chunk would have fewer than D tokens
MAX_CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}


def cross_entropy(states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore_index: int) -> Tensor:
    """Average -log softmax(states · headᵀ)[target] over the targets, in nats.

    Targets equal to `ignore_index` do not count. Products use autocast's type where autocast is on; sums and the softmax use
    float32 or wider.
    """
    return chunked_cross_entropy(states_ND, head_VD, targets_N, ignore_index, 0.0)[0]


def chunked_cross_entropy(
    states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return (loss with label smoothing, plain cross-entropy without gradient).

    Both are means in nats. `label_smoothing` of each target is spread evenly over the vocabulary (Szegedy et al. 2015, arXiv
    1512.00567); 0: both are equal.
    """
    device_type = states_ND.device.type
    dtype = autocast_dtype(states_ND)
    chunk_size = max(head_VD.shape[1], MAX_CHUNK_LOGITS.get(device_type, MAX_CHUNK_LOGITS["cpu"]) // head_VD.shape[0])
    with torch.autocast(device_type, enabled=False):
        states_ND, head_VD = states_ND.to(dtype), head_VD.to(dtype)
        if torch.is_grad_enabled():
            losses: tuple[Tensor, Tensor] = _ChunkedCrossEntropy.apply(
                states_ND, head_VD, targets_N, ignore_index, label_smoothing, chunk_size
            )  # type: ignore[no-untyped-call]
            return losses
        chunks = [
            _chunk_loss(logits_CV, targets_N[chunk], ignore_index, label_smoothing)
            for chunk, logits_CV in _iter_chunk_logits(states_ND, head_VD, chunk_size)
        ]
        num_targets = (targets_N != ignore_index).sum()
        return torch.stack([chunk.loss for chunk in chunks]).sum() / num_targets, torch.stack(
            [chunk.nats for chunk in chunks]
        ).sum() / num_targets


def _iter_chunk_logits(states_ND: Tensor, head_VD: Tensor, chunk_size: int) -> Iterator[tuple[slice, Tensor]]:
    accum_dtype = torch.promote_types(states_ND.dtype, torch.float32)
    for start in range(0, len(states_ND), chunk_size):
        chunk = slice(start, start + chunk_size)
        yield chunk, F.linear(states_ND[chunk], head_VD).to(accum_dtype)


class _ChunkLoss(NamedTuple):
    """Hold the sums over a chunk, its log-probabilities and its targets.

    The log-probabilities use the memory of the logits; the targets are a column. Ignored targets are 0 in the column.
    """

    loss: Tensor
    nats: Tensor
    log_probs_CV: Tensor
    target_C1: Tensor


def _chunk_loss(logits_CV: Tensor, targets_C: Tensor, ignore_index: int, label_smoothing: float) -> _ChunkLoss:
    ignored_C1 = (targets_C == ignore_index)[:, None]
    target_C1 = targets_C[:, None].masked_fill(ignored_C1, 0)
    log_probs_CV = torch.log_softmax(logits_CV, -1, out=logits_CV)
    nats = loss = -log_probs_CV.gather(1, target_C1).masked_fill(ignored_C1, 0.0).sum()
    if label_smoothing:
        uniform = -log_probs_CV.mean(-1, keepdim=True).masked_fill(ignored_C1, 0.0).sum()
        loss = (1 - label_smoothing) * nats + label_smoothing * uniform
    return _ChunkLoss(loss, nats, log_probs_CV, target_C1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, head_VD: Tensor, targets_N: Tensor, ignore_index: int, label_smoothing: float, chunk_size: int
    ) -> tuple[Tensor, Tensor]:
        accum_dtype = torch.promote_types(states_ND.dtype, torch.float32)
        grad_states_ND, grad_head_VD = torch.empty_like(states_ND), torch.zeros_like(head_VD, dtype=accum_dtype)
        num_targets = (targets_N != ignore_index).sum()
        total, plain = (torch.zeros((), dtype=accum_dtype, device=states_ND.device) for _ in range(2))
        for chunk, logits_CV in _iter_chunk_logits(states_ND, head_VD, chunk_size):
            result = _chunk_loss(logits_CV, targets_N[chunk], ignore_index, label_smoothing)
            total += result.loss
            plain += result.nats
            grad_logits_CV = result.log_probs_CV.exp_()
            if label_smoothing:
                grad_logits_CV.sub_(label_smoothing / head_VD.shape[0])
            grad_logits_CV.scatter_add_(1, result.target_C1, grad_logits_CV.new_full(result.target_C1.shape, label_smoothing - 1.0))
            grad_logits_CV.masked_fill_((targets_N[chunk] == ignore_index)[:, None], 0.0)
            grad_cast_CV = grad_logits_CV.to(states_ND.dtype)
            grad_states_ND[chunk] = grad_cast_CV @ head_VD
            if accum_dtype == states_ND.dtype:
                grad_head_VD.addmm_(grad_cast_CV.T, states_ND[chunk])
            else:
                grad_head_VD += grad_cast_CV.T @ states_ND[chunk]
        ctx.save_for_backward(grad_states_ND, grad_head_VD, num_targets)
        mean, plain = total / num_targets, plain / num_targets
        ctx.mark_non_differentiable(plain)
        return mean, plain

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_states_ND, grad_head_VD, num_targets = ctx.saved_tensors
        scale = gradients[0] / num_targets
        return (
            (grad_states_ND * scale).to(grad_states_ND.dtype),
            (grad_head_VD * scale).to(grad_states_ND.dtype),
            None,
            None,
            None,
            None,
        )
