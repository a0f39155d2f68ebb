"""Build the blocks of the grid transformer.

Each adds a mixture of neighbouring cells, attention among all cells of a sequence and a feed-forward layer to the residual stream.

Shapes: B sequences, T positions, N cells, D hidden size, A heads, H head size, K neighbours.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.grid_transformer.config import GridTransformerConfig
from provenlm.models.grid_transformer.positions import NUM_NEIGHBORS, AttentionGroup, CellLayout


class NeighborMixing(nn.Module):
    """Sum the 3 × 3 neighbourhood of each cell with a weight for each channel.

    It is a depthwise convolution on cells that need not fill a rectangle: a neighbour that is no cell counts as 0.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NUM_NEIGHBORS, hidden_size))

    def forward(self, states_ND: Tensor, neighbors_NK: Tensor) -> Tensor:
        mixed_ND: Tensor = _NeighborSum.apply(states_ND, self.weight.to(states_ND.dtype), neighbors_NK)  # type: ignore[no-untyped-call]
        return mixed_ND


class _NeighborSum(torch.autograd.Function):
    """Gather neighbours in both passes.

    The neighbourhood is symmetric: a cell is the opposite neighbour of its neighbour. The backward pass therefore gathers too, which is
    deterministic on every device and saves no gathered states.
    """

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, weight_KD: Tensor, neighbors_NK: Tensor) -> Tensor:
        ctx.save_for_backward(states_ND, weight_KD, neighbors_NK)
        return _weighted_sum(states_ND, weight_KD, neighbors_NK)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        states_ND, weight_KD, neighbors_NK = ctx.saved_tensors
        padded_grad = F.pad(gradients[0], (0, 0, 0, 1))
        grad_states_ND, grad_weight_KD = torch.zeros_like(states_ND), torch.empty_like(weight_KD)
        for k, opposite_N in enumerate(neighbors_NK.flip(1).unbind(1)):
            grad_ND = padded_grad.index_select(0, opposite_N)  # of the cells of which each cell is neighbour k
            grad_states_ND.addcmul_(grad_ND, weight_KD[k])
            grad_weight_KD[k] = grad_ND.mul_(states_ND).sum(0)
        return grad_states_ND, grad_weight_KD, None


def _weighted_sum(states_ND: Tensor, weight_KD: Tensor, neighbors_NK: Tensor) -> Tensor:
    padded = F.pad(states_ND, (0, 0, 0, 1))  # number N: no cell
    mixed_ND = torch.zeros_like(states_ND)
    for neighbors_N, weight_D in zip(neighbors_NK.unbind(1), weight_KD, strict=True):
        mixed_ND.addcmul_(padded.index_select(0, neighbors_N), weight_D)
    return mixed_ND


class GridAttention(nn.Module):
    """Attend to all cells of the same sequence."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, states_ND: Tensor, layout: CellLayout) -> Tensor:
        query_NAH = rotary.apply_rotary_emb(self._split_heads(self.q_proj(states_ND)), layout.rope)
        key_NAH = rotary.apply_rotary_emb(self._split_heads(self.k_proj(states_ND)), layout.rope)
        value_NAH = self._split_heads(self.v_proj(states_ND))
        attended = [
            attend_in_group(query_NAH[group.cells], key_NAH[group.cells], value_NAH[group.cells], group) for group in layout.groups
        ]
        out_ND: Tensor = self.o_proj(torch.cat(attended).flatten(1) if attended else states_ND)
        return out_ND

    def _split_heads(self, projected_ND: Tensor) -> Tensor:
        return projected_ND.view(len(projected_ND), self.num_heads, self.head_dim)


def attend_in_group(query: Tensor, key: Tensor, value: Tensor, group: AttentionGroup) -> Tensor:
    """Let the cells of a group attend within their sequences.

    All are (cells, A, H). Padding exists here alone, and nothing attends to it.
    """
    is_padded = group.is_cell_GL is not None

    def split_sequences(heads: Tensor) -> Tensor:
        """Return the heads as (G, A, L, H); padding is 0."""
        if is_padded:
            heads = heads.new_zeros(group.shape[0] * group.shape[1], *heads.shape[1:]).index_copy(0, group.slots, heads)
        return heads.view(*group.shape, *heads.shape[1:]).transpose(1, 2)

    mask = None if group.is_cell_GL is None else group.is_cell_GL[:, None, None]
    attended_GALH = F.scaled_dot_product_attention(
        split_sequences(query), split_sequences(key), split_sequences(value), attn_mask=mask
    )
    attended = attended_GALH.transpose(1, 2).flatten(0, 1)
    return attended.index_select(0, group.slots) if is_padded else attended


class GridFeedForward(nn.Module):
    """Compute down · (silu(gate · x) * (up · x)) (SwiGLU, arXiv 2002.05202).

    It calls its projections as modules, so that adapters on them take effect.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, states_ND: Tensor) -> Tensor:
        out_ND: Tensor = self.down_proj(F.silu(self.gate_proj(states_ND)) * self.up_proj(states_ND))
        return out_ND


class GridBlock(nn.Module):
    """Add neighbours, attention and feed-forward layer to the residual stream."""

    def __init__(self, config: GridTransformerConfig) -> None:
        super().__init__()
        c = config
        self.mixing_layernorm = RMSNorm(c.hidden_size, c.norm_eps)
        self.mixing = NeighborMixing(c.hidden_size)
        self.input_layernorm = RMSNorm(c.hidden_size, c.norm_eps)
        self.self_attn = GridAttention(c.hidden_size, c.num_attention_heads)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.norm_eps)
        self.mlp = GridFeedForward(c.hidden_size, c.intermediate_size)

    def forward(self, hidden_ND: Tensor, layout: CellLayout) -> Tensor:
        hidden_ND = hidden_ND + self.mixing(self.mixing_layernorm(hidden_ND), layout.neighbors_NK)
        hidden_ND = hidden_ND + self.self_attn(self.input_layernorm(hidden_ND), layout)
        out_ND: Tensor = hidden_ND + self.mlp(self.post_attention_layernorm(hidden_ND))
        return out_ND
