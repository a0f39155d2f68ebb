"""Build the blocks of encoder, decoder, prior and discriminator.

They have LayerNorm, rotary positions, GELU and biases.

Shapes: B sequences, T positions, D hidden size, S attended positions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from provenlm.models.common.layers import attention, feed_forward, hierarchical_attention, rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.layers.decoder import TransformerBlock
from provenlm.models.common.layers.feed_forward import MLP
from provenlm.models.common.layers.hierarchical_attention import HierarchicalAttention, HierarchicalBlock
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.sequence_vae.config import SequenceVAEConfig


class SequenceStack(nn.Module):
    """Pass hidden states through blocks of plain attention and a last norm."""

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropout: float,
        norm_eps: float,
        theta: float,
    ) -> None:
        super().__init__()
        self.head_dim, self.rope_theta = hidden_size // num_heads, theta
        self.layers = BlockStack(
            TransformerBlock(
                nn.LayerNorm(hidden_size, norm_eps),
                Attention(hidden_size, num_heads, num_heads, dropout, bias=True),
                nn.LayerNorm(hidden_size, norm_eps),
                MLP(hidden_size, intermediate_size),
                dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, norm_eps)

    def forward(
        self,
        hidden_BTD: Tensor,
        mask_BTS: Tensor | None,
        injected_BTD: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the normalized states and the states after each block.

        `mask_BTS` is True where a position may attend (None: to itself and all earlier ones); `injected_BTD` is added before every block.
        With `cache` the positions are those of the cache, which brings its own mask.
        """
        positions = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) if cache is None else cache.positions_BT[:, None]
        rope = rotary.rope_cos_sin(positions, self.head_dim, self.rope_theta)
        mask_B1TS = None if mask_BTS is None else mask_BTS[:, None]

        def run_block(layer: int, block: nn.Module, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
            hidden_BTD = hidden_BTD if injected_BTD is None else hidden_BTD + injected_BTD
            hidden_BTD, _ = block(hidden_BTD, rope, mask_B1TS, None if cache is None else (cache, layer))
            return hidden_BTD, hidden_BTD

        hidden_BTD, states = self.layers.run(hidden_BTD, run_block)
        return self.norm(hidden_BTD), states


class SegmentStack(nn.Module):
    """Pass hidden states through blocks that attend within segments or causally.

    A last norm follows.

    The segments are bars. `attention: hierarchical` uses windows and summaries of segments.
    """

    def __init__(self, config: SequenceVAEConfig, num_layers: int, is_causal: bool) -> None:
        super().__init__()
        c = config
        self.is_causal, self.window, self.rope_theta = is_causal, c.window, c.rope_theta
        self.head_dim = c.hidden_size // c.num_attention_heads
        self.plain = (
            SequenceStack(
                num_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size, c.dropout, c.norm_eps, c.rope_theta
            )
            if c.attention == "plain"
            else None
        )
        if self.plain is None:
            self.layers = BlockStack(_build_hierarchical_block(c) for _ in range(num_layers))
            self.norm = nn.LayerNorm(c.hidden_size, c.norm_eps)

    @property
    def blocks(self) -> BlockStack:
        """Return the blocks."""
        return self.layers if self.plain is None else self.plain.layers

    def forward(
        self, hidden_BTD: Tensor, segments_BT: Tensor, injected_BTD: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Return the normalized states.

        `segments_BT` number the segments and never fall along a sequence; `injected_BTD` is added before every block. A cache is for
        plain attention only.
        """
        if self.plain is not None:
            mask_BTS = None if self.is_causal else segments_BT[:, :, None] == segments_BT[:, None, :]
            plain_BTD: Tensor = self.plain(hidden_BTD, mask_BTS, injected_BTD, cache)[0]
            return plain_BTD
        if cache is not None:
            raise ValueError("attention must be plain for generation with a cache, got hierarchical")
        if self.is_causal:
            scope = hierarchical_attention.causal_scope(segments_BT, self.window, self.head_dim, self.rope_theta)
        else:
            scope = hierarchical_attention.own_segment_scope(segments_BT, self.head_dim, self.rope_theta)

        def run_block(layer: int, block: nn.Module, hidden_BTD: Tensor) -> tuple[Tensor, Any]:
            output: tuple[Tensor, Any] = block(hidden_BTD if injected_BTD is None else hidden_BTD + injected_BTD, scope)
            return output

        hidden_BTD, _ = self.layers.run(hidden_BTD, run_block)
        out_BTD: Tensor = self.norm(hidden_BTD)
        return out_BTD


def _build_hierarchical_block(config: SequenceVAEConfig) -> HierarchicalBlock:
    c = config
    self_attn = HierarchicalAttention(
        c.hidden_size, c.num_attention_heads, nn.LayerNorm(c.hidden_size, c.norm_eps), c.dropout, bias=True
    )
    norms = [nn.LayerNorm(c.hidden_size, c.norm_eps) for _ in range(2)]
    return HierarchicalBlock(norms[0], self_attn, norms[1], MLP(c.hidden_size, c.intermediate_size), c.dropout)


def num_block_params(hidden_size: int, intermediate_size: int, is_hierarchical: bool = False) -> int:
    """Count the parameters of one block."""
    d, norm = hidden_size, 2 * hidden_size
    if is_hierarchical:
        attention_params = hierarchical_attention.num_hierarchical_attention_params(d, True, norm)
    else:
        attention_params = attention.num_attention_params(d, 1, 1, bias=True)
    return attention_params + feed_forward.num_mlp_params(d, intermediate_size) + 2 * norm
