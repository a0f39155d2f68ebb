"""Causal self-attention with grouped queries: hidden states in, for each position a mixture of the values up to it out.

Shapes: B batch, T positions, D hidden, N query heads, G key/value heads (G divides N), H components of a head (D = N·H),
S positions that are looked at: T, or those of a cache.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.kv_cache import Cache
from provenlm.models.common.layers.rotary import Angles


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245); the projections carry Llama's names and, where `bias` says so, a bias."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.head = hidden // heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden, heads * self.head, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head, bias=bias)
        self.o_proj = nn.Linear(heads * self.head, hidden, bias=bias)

    def forward(
        self, hidden_BTD: Tensor, angles: Angles | None, seen_B1TS: Tensor | None, past: tuple[Cache, int] | None
    ) -> Tensor:
        """`angles` turn queries and keys (None: positions were added to the states).

        `seen_B1TS` says who may look at whom (None: all that came before); `past` is a cache, which knows that itself, and our layer.
        """
        query_BNTH, key_BGSH, value_BGSH = (self._heads(p(hidden_BTD)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if angles is not None:
            query_BNTH, key_BGSH = rotary.rotate(query_BNTH, angles), rotary.rotate(key_BGSH, angles)
        if past is not None:
            cache, layer = past
            key_BGSH, value_BGSH, seen_B1TS = cache.extend(layer, key_BGSH, value_BGSH)
        mixed_BNTH = F.scaled_dot_product_attention(
            query_BNTH,
            key_BGSH,
            value_BGSH,
            attn_mask=seen_B1TS,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=seen_B1TS is None,
            enable_gqa=query_BNTH.shape[1] != key_BGSH.shape[1],
        )
        joined_BTD: Tensor = self.o_proj(mixed_BNTH.transpose(1, 2).flatten(2))
        return joined_BTD

    def _heads(self, projected_BTX: Tensor) -> Tensor:
        batch, length = projected_BTX.shape[:2]
        return projected_BTX.view(batch, length, -1, self.head).transpose(1, 2)


def parameters(hidden: int, heads: int, kv_heads: int, bias: bool) -> int:
    """How many parameters `Attention` has."""
    inner = kv_heads * (hidden // heads)
    return 2 * hidden * hidden + 2 * hidden * inner + bias * 2 * (hidden + inner)


def products(hidden: int, length: int) -> int:
    """Multiplications and additions of queries with keys and of weights with values, a token of a row of `length` and a forward pass.

    Every position is counted as if it looked at all (as PaLM has it, arXiv 2204.02311, appendix B): kernels that mask do.
    """
    return 4 * hidden * length
