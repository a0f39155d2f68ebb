"""Causal self-attention with grouped queries: hidden states in, for each position a mixture of the values up to it out.

Shapes: B batch, T positions, D hidden, N query heads, G key/value heads (G divides N), H components of a head (D = N·H),
S positions that are looked at: T, or those of a cache.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.rotary import RopeCache


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245); the projections carry Llama's names and, where `bias` says so, a bias."""

    def __init__(self, hidden_size: int, num_heads: int, num_kv_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.head_dim = hidden_size // num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden_size, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden_size, num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * self.head_dim, hidden_size, bias=bias)

    def forward(
        self, hidden_BTD: Tensor, rope: RopeCache | None, attn_mask_B1TS: Tensor | None, cache_and_layer: tuple[KVCache, int] | None
    ) -> Tensor:
        """`angles` turn queries and keys (None: positions were added to the states).

        `seen_B1TS` says who may look at whom (None: all that came before); `past` is a cache, which knows that itself, and our layer.
        """
        query_BNTH, key_BGSH, value_BGSH = (self._split_heads(p(hidden_BTD)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if rope is not None:
            query_BNTH, key_BGSH = rotary.apply_rotary_emb(query_BNTH, rope), rotary.apply_rotary_emb(key_BGSH, rope)
        if cache_and_layer is not None:
            cache, layer = cache_and_layer
            key_BGSH, value_BGSH, attn_mask_B1TS = cache.append(layer, key_BGSH, value_BGSH)
        attended_BNTH = F.scaled_dot_product_attention(
            query_BNTH,
            key_BGSH,
            value_BGSH,
            attn_mask=attn_mask_B1TS,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=attn_mask_B1TS is None,
            enable_gqa=query_BNTH.shape[1] != key_BGSH.shape[1],
        )
        out_BTD: Tensor = self.o_proj(attended_BNTH.transpose(1, 2).flatten(2))
        return out_BTD

    def _split_heads(self, projected_BTX: Tensor) -> Tensor:
        batch_size, seq_len = projected_BTX.shape[:2]
        return projected_BTX.view(batch_size, seq_len, -1, self.head_dim).transpose(1, 2)


def num_attention_params(hidden_size: int, num_heads: int, num_kv_heads: int, bias: bool) -> int:
    """How many parameters `Attention` has."""
    kv_size = num_kv_heads * (hidden_size // num_heads)
    return 2 * hidden_size * hidden_size + 2 * hidden_size * kv_size + bias * 2 * (hidden_size + kv_size)


def attention_flops(hidden_size: int, seq_len: int) -> int:
    """Multiplications and additions of queries with keys and of weights with values, a token of a row of `length` and a forward pass.

    Every position is counted as if it looked at all (as PaLM has it, arXiv 2204.02311, appendix B): kernels that mask do.
    """
    return 4 * hidden_size * seq_len
