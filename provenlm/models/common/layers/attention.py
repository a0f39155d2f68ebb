"""Compute causal self-attention with grouped queries.

Shapes: B batch, T positions, D hidden size, N query heads, G key/value heads (G divides N), H head size (D = N·H), S attended
positions: T, or the slots of a cache.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.rotary import RopeCache


class Attention(nn.Module):
    """Apply grouped-query attention (arXiv 2305.13245).

    The projections have Llama's names.
    """

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
        """Attend to earlier positions.

        `rope` rotates queries and keys (None: positions were added to the hidden states). `attn_mask_B1TS` is True where a position may
        attend (None: to itself and all earlier ones). `cache_and_layer`, if given, holds a cache, which brings its own mask, and the
        index of this layer.
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
    """Count the parameters of `Attention`."""
    kv_size = num_kv_heads * (hidden_size // num_heads)
    return 2 * hidden_size * hidden_size + 2 * hidden_size * kv_size + bias * 2 * (hidden_size + kv_size)


def attention_flops(hidden_size: int, seq_len: int) -> int:
    """Count the FLOPs of attention per token and forward pass, without projections.

    Every position counts as attending to all `seq_len` positions, as in PaLM (arXiv 2204.02311, appendix B).
    """
    return 4 * hidden_size * seq_len
