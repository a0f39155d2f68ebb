"""Attend to near positions one by one and to far ones by summaries of segments.

A segment is a bar of music, or a stride of positions. Half of the layer attends to a local window; the other half attends to one
summary of each segment: the mean of its hidden states, normalized. A causal position sees the summaries of finished segments only,
as in the bar-level attention of Museformer (arXiv 2210.10349).

Shapes: B batch, T positions, D hidden size, N heads, H head size (D = N·H), S segments, A attended slots: A = S + 1, a slot of zeros
(for positions that see no summary) and a slot for each segment; L positions of a local mask, C chunks of W positions (W the window).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.rotary import RopeCache


@dataclass(frozen=True)
class HierarchicalScope:
    """Hold what each position may attend to; all layers share it.

    `rope` rotates by position and `segment_rope` by segment: that of the queries, then that of the keys. `local_mask` is True where a
    position may attend to another one: (B or 1, 1, T, L), or for `window` > 0 (B·C, 1, W, 2·W): each chunk of positions attends to
    itself and to the chunk before. `mean_BST` averages the positions of each segment; `summary_mask_B1TA` is True where a position may
    attend to a summary.
    """

    rope: RopeCache
    segment_rope: tuple[RopeCache, RopeCache]
    local_mask: Tensor
    window: int
    mean_BST: Tensor
    summary_mask_B1TA: Tensor


class HierarchicalAttention(nn.Module):
    """Join local attention and attention to summaries by one output matrix.

    `summary_norm` normalizes the mean states of a segment, whose size falls with the length of the segment.
    """

    def __init__(self, hidden_size: int, num_heads: int, summary_norm: nn.Module, dropout: float, bias: bool) -> None:
        super().__init__()
        self.head_dim, self.dropout = hidden_size // num_heads, dropout
        self.local_q_proj, self.local_k_proj, self.local_v_proj = (nn.Linear(hidden_size, hidden_size, bias) for _ in range(3))
        self.global_q_proj, self.global_k_proj, self.global_v_proj = (nn.Linear(hidden_size, hidden_size, bias) for _ in range(3))
        self.summary_norm = summary_norm
        self.o_proj = nn.Linear(2 * hidden_size, hidden_size, bias)

    def forward(self, hidden_BTD: Tensor, scope: HierarchicalScope, cache_and_layers: tuple[KVCache, int, int] | None) -> Tensor:
        """Attend within `scope`.

        `cache_and_layers`, if given, holds a cache and its layers for the local keys and values and for the hidden states of all
        positions so far; the scope then has masks over the slots of the cache.
        """
        query_BNTH, key_BNTH, value_BNTH = (
            self._split_heads(p(hidden_BTD)) for p in (self.local_q_proj, self.local_k_proj, self.local_v_proj)
        )
        query_BNTH, key_BNTH = rotary.apply_rotary_emb(query_BNTH, scope.rope), rotary.apply_rotary_emb(key_BNTH, scope.rope)
        states_BTD = hidden_BTD
        if cache_and_layers is not None:
            cache, local_layer, state_layer = cache_and_layers
            key_BNTH, value_BNTH, _ = cache.append(local_layer, key_BNTH, value_BNTH)
            halves = hidden_BTD[:, None].chunk(2, -1)
            states_BTD = torch.cat(cache.append(state_layer, *halves)[:2], -1)[:, 0]
        local_BTD = self._local(query_BNTH, key_BNTH, value_BNTH, scope)
        out_BTD: Tensor = self.o_proj(torch.cat((local_BTD, self._summarised(hidden_BTD, states_BTD, scope)), -1))
        return out_BTD

    def _local(self, query_BNTH: Tensor, key_BNTH: Tensor, value_BNTH: Tensor, scope: HierarchicalScope) -> Tensor:
        if not scope.window:
            return self._attend(query_BNTH, key_BNTH, value_BNTH, scope.local_mask).transpose(1, 2).flatten(2)
        (batch, num_heads, seq_len, _), window = query_BNTH.shape, scope.window
        num_chunks = -(-seq_len // window)
        padding = num_chunks * window - seq_len
        query_BNTH = F.pad(query_BNTH, (0, 0, 0, padding))
        query = query_BNTH.reshape(batch, num_heads, num_chunks, window, self.head_dim).transpose(1, 2).flatten(0, 1)
        keys, values = (
            F.pad(tensor_BNTH, (0, 0, window, padding)).unfold(2, 2 * window, window).permute(0, 2, 1, 4, 3).flatten(0, 1)
            for tensor_BNTH in (key_BNTH, value_BNTH)
        )
        attended = self._attend(query, keys, values, scope.local_mask)
        chunks_BCWD = attended.transpose(1, 2).flatten(2).view(batch, num_chunks, window, num_heads * self.head_dim)
        return chunks_BCWD.flatten(1, 2)[:, :seq_len]

    def _summarised(self, hidden_BTD: Tensor, states_BTD: Tensor, scope: HierarchicalScope) -> Tensor:
        summary_BSD = self.summary_norm(scope.mean_BST.to(states_BTD.dtype) @ states_BTD)
        query_rope, key_rope = scope.segment_rope
        query_BNTH = rotary.apply_rotary_emb(self._split_heads(self.global_q_proj(hidden_BTD)), query_rope)
        key_BNSH = rotary.apply_rotary_emb(self._split_heads(self.global_k_proj(summary_BSD)), key_rope)
        value_BNSH = self._split_heads(self.global_v_proj(summary_BSD))
        key_BNAH, value_BNAH = (F.pad(tensor, (0, 0, 1, 0)) for tensor in (key_BNSH, value_BNSH))
        return self._attend(query_BNTH, key_BNAH, value_BNAH, scope.summary_mask_B1TA).transpose(1, 2).flatten(2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout)

    def _split_heads(self, projected_BTD: Tensor) -> Tensor:
        batch_size, num_positions = projected_BTD.shape[:2]
        return projected_BTD.view(batch_size, num_positions, -1, self.head_dim).transpose(1, 2)


class HierarchicalBlock(nn.Module):
    """Add attention and feed-forward layer to the residual stream.

    `mlp(hidden_BTD)` returns its output and None, as the feed-forward layers do.
    """

    def __init__(
        self,
        input_layernorm: nn.Module,
        self_attn: HierarchicalAttention,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_layernorm = input_layernorm
        self.self_attn = self_attn
        self.post_attention_layernorm = post_attention_layernorm
        self.mlp = mlp
        self.dropout = dropout

    def forward(
        self, hidden_BTD: Tensor, scope: HierarchicalScope, cache_and_layers: tuple[KVCache, int, int] | None = None
    ) -> tuple[Tensor, None]:
        attended_BTD = self.self_attn(self.input_layernorm(hidden_BTD), scope, cache_and_layers)
        hidden_BTD = hidden_BTD + F.dropout(attended_BTD, self.dropout, self.training)
        mlp_out_BTD, _ = self.mlp(self.post_attention_layernorm(hidden_BTD))
        return hidden_BTD + F.dropout(mlp_out_BTD, self.dropout, self.training), None


def causal_scope(
    segments_BT: Tensor, window: int, head_dim: int, rope_theta: float, documents_BT: Tensor | None = None
) -> HierarchicalScope:
    """Let positions attend to a window and to summaries of finished segments.

    The window has the last `window` positions, the own one included. `segments_BT` never fall along a sequence. With `documents_BT` nothing of another document is seen; segments must then
    begin anew in each document.
    """
    seq_len = segments_BT.shape[1]
    positions_T = torch.arange(seq_len, device=segments_BT.device)
    mean_BST, finished_BTS = _segment_means(segments_BT), _segments_before(segments_BT)
    if documents_BT is not None:
        finished_BTS &= _document_of_segment(mean_BST, documents_BT)[:, None, :] == documents_BT[..., None]
    chunked = seq_len > window
    if chunked:
        local_mask = _chunk_mask(positions_T, window, documents_BT, len(segments_BT))
    else:
        local_mask = (positions_T[:, None] >= positions_T)[None]
        if documents_BT is not None:
            local_mask = local_mask & (documents_BT[:, :, None] == documents_BT[:, None, :])
        local_mask = local_mask[:, None]
    rope = rotary.rope_cos_sin(positions_T, head_dim, rope_theta)
    segment_rope = _segment_rope(segments_BT, mean_BST.shape[1], head_dim, rope_theta)
    return HierarchicalScope(rope, segment_rope, local_mask, window if chunked else 0, mean_BST, _with_empty_slot(finished_BTS))


def cached_scope(
    segments_BT: Tensor, slot_segments_BL: Tensor, positions_BT: Tensor, window: int, head_dim: int, rope_theta: float
) -> HierarchicalScope:
    """Return the causal scope of new positions that follow cached ones.

    `segments_BT` are the segments of the new positions and `slot_segments_BL` those of all slots of the cache that are used.
    """
    mean_BSL = _segment_means(slot_segments_BL)
    finished_BTS = torch.arange(mean_BSL.shape[1], device=segments_BT.device) < segments_BT[..., None]
    distance_BTL = positions_BT[..., None] - torch.arange(slot_segments_BL.shape[1], device=segments_BT.device)
    local_mask_B1TL = ((distance_BTL >= 0) & (distance_BTL < window))[:, None]
    rope = rotary.rope_cos_sin(positions_BT[:, None], head_dim, rope_theta)
    segment_rope = _segment_rope(segments_BT, mean_BSL.shape[1], head_dim, rope_theta)
    return HierarchicalScope(rope, segment_rope, local_mask_B1TL, 0, mean_BSL, _with_empty_slot(finished_BTS))


def own_segment_scope(segments_BT: Tensor, head_dim: int, rope_theta: float) -> HierarchicalScope:
    """Let each position attend to its own segment and its summary, in encoders."""
    mean_BST = _segment_means(segments_BT)
    own_BTS = torch.arange(mean_BST.shape[1], device=segments_BT.device) == segments_BT[..., None]
    local_mask_B1TT = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    rope = rotary.rope_cos_sin(torch.arange(segments_BT.shape[1], device=segments_BT.device), head_dim, rope_theta)
    segment_rope = _segment_rope(segments_BT, mean_BST.shape[1], head_dim, rope_theta)
    return HierarchicalScope(rope, segment_rope, local_mask_B1TT, 0, mean_BST, _with_empty_slot(own_BTS))


def _segment_means(segments_BT: Tensor) -> Tensor:
    """Return the matrix that averages the positions of each segment; an empty segment gives zeros."""
    num_segments = int(segments_BT.max()) + 1
    member_BST = (torch.arange(num_segments, device=segments_BT.device)[:, None] == segments_BT[:, None, :]).float()
    return member_BST / member_BST.sum(-1, keepdim=True).clamp(min=1.0)


def _segments_before(segments_BT: Tensor) -> Tensor:
    """Return the mask (B, T, S) of the segments before that of each position."""
    return torch.arange(int(segments_BT.max()) + 1, device=segments_BT.device) < segments_BT[..., None]


def _document_of_segment(mean_BST: Tensor, documents_BT: Tensor) -> Tensor:
    """Return the document (B, S) of the first position of each segment."""
    return documents_BT.gather(1, (mean_BST > 0).int().argmax(-1))


def _chunk_mask(positions_T: Tensor, window: int, documents_BT: Tensor | None, batch_size: int) -> Tensor:
    """Return local_mask (B·C, 1, W, 2·W): a window of positions for each query, none before the start of the sequence."""
    num_chunks = -(-len(positions_T) // window)
    key_offsets = torch.arange(2 * window, device=positions_T.device) - window
    query_offsets = key_offsets[window:, None]
    in_window = (key_offsets <= query_offsets) & (key_offsets > query_offsets - window)
    starts_C = torch.arange(num_chunks, device=positions_T.device)[:, None, None] * window
    mask_BCW = (in_window & (starts_C + key_offsets >= 0)).expand(batch_size, -1, -1, -1)
    if documents_BT is not None:
        padding = num_chunks * window - len(positions_T)
        keys = F.pad(documents_BT, (window, padding), value=-1).unfold(1, 2 * window, window)
        mask_BCW = mask_BCW & (keys[..., window:, None] == keys[..., None, :])
    return mask_BCW.flatten(0, 1)[:, None]


def _segment_rope(segments_BT: Tensor, num_segments: int, head_dim: int, rope_theta: float) -> tuple[RopeCache, RopeCache]:
    """Return the rotations of queries and of summaries, so that scores depend on the distance in segments."""
    keys_S = torch.arange(num_segments, device=segments_BT.device)
    return (
        rotary.rope_cos_sin(segments_BT[:, None], head_dim, rope_theta),
        rotary.rope_cos_sin(keys_S, head_dim, rope_theta),
    )


def _with_empty_slot(visible_BTS: Tensor) -> Tensor:
    return F.pad(visible_BTS, (1, 0), value=True)[:, None]


def num_hierarchical_attention_params(hidden_size: int, bias: bool, num_norm_params: int) -> int:
    """Count the parameters of `HierarchicalAttention`."""
    return 6 * (hidden_size**2 + bias * hidden_size) + 2 * hidden_size**2 + bias * hidden_size + num_norm_params


def hierarchical_attention_flops(hidden_size: int, seq_len: int, window: int, num_segments: int) -> int:
    """Count the FLOPs of attention per token, forward and backward.

    The projections of positions do not count. A position counts as attending to all slots that are computed for it: two windows, or `seq_len` positions if they fit into one, and
    all summaries. Means of states, and keys and values of summaries, are computed once for each of `num_segments`.
    """
    num_queries, num_slots = (seq_len, seq_len) if seq_len <= window else (-(-seq_len // window) * window, 2 * window)
    local = 12 * hidden_size * num_queries * num_slots
    summaries = 12 * hidden_size * seq_len * (num_segments + 1) + 12 * hidden_size**2 * num_segments
    means = 4 * hidden_size * seq_len * num_segments  # the backward pass needs one product only
    return (local + summaries + means) // seq_len
