"""Causal self-attention with grouped queries: hidden states in, for each position a mixture of the values up to it out.

Shapes: B batch, T positions, D hidden, N query heads, G key/value heads (G divides N), H components of a head (D = N·H).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.layers import rotary


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245); the projections carry Hugging Face's names and have no bias."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, dropout: float) -> None:
        super().__init__()
        self.head = hidden // heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden, heads * self.head, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head, bias=False)
        self.o_proj = nn.Linear(heads * self.head, hidden, bias=False)

    def forward(self, hidden_BTD: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
        query_BNTH = rotary.rotate(self._heads(self.q_proj(hidden_BTD)), cos_TH, sin_TH)
        key_BGTH = rotary.rotate(self._heads(self.k_proj(hidden_BTD)), cos_TH, sin_TH)
        value_BGTH = self._heads(self.v_proj(hidden_BTD))
        mixed_BNTH = F.scaled_dot_product_attention(
            query_BNTH,
            key_BGTH,
            value_BGTH,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
            enable_gqa=query_BNTH.shape[1] != key_BGTH.shape[1],
        )
        joined_BTD: Tensor = self.o_proj(mixed_BNTH.transpose(1, 2).flatten(2))
        return joined_BTD

    def _heads(self, projected_BTX: Tensor) -> Tensor:
        batch, length = projected_BTX.shape[:2]
        return projected_BTX.view(batch, length, -1, self.head).transpose(1, 2)


def parameters(hidden: int, heads: int, kv_heads: int) -> int:
    """How many parameters `Attention` has."""
    return 2 * hidden * hidden + 2 * hidden * kv_heads * (hidden // heads)
