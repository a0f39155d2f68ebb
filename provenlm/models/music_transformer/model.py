"""Build the music transformer and count its parameters and FLOPs in closed form.

Shapes: B batch, T positions, D hidden size, L used slots of a cache, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core.errors import ConfigError
from provenlm.models.common.layers import attention, decoder, feed_forward, hierarchical_attention
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import NormLayer, TransformerBlock
from provenlm.models.common.layers.feed_forward import MLP, SwiGLU
from provenlm.models.common.layers.hierarchical_attention import HierarchicalAttention, HierarchicalBlock, HierarchicalScope
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.layers.moe_router import Routing
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.music_transformer.config import MusicTransformerConfig


class MusicTransformer(decoder.Decoder):
    """Compute next-token logits with plain or hierarchical attention.

    `bar_ids` are the tokens that begin a bar; empty if the model does not need them or does not know them.
    """

    bar_ids: Tensor

    def __init__(self, config: MusicTransformerConfig, vocab_size: int) -> None:
        c = config
        super().__init__(
            vocab_size,
            c.hidden_size,
            c.max_position_embeddings,
            (build_block(c) for _ in range(c.num_hidden_layers)),
            build_norm(c),
            c.tie_word_embeddings,
            c.rope_theta,
        )
        self.config = c
        self.head_bias = nn.Parameter(torch.zeros(vocab_size)) if c.head_bias else None
        self.register_buffer("bar_ids", torch.tensor(c.bar_token_ids or (), dtype=torch.int64), persistent=False)

    def hidden_states(
        self, tokens_BT: Tensor, cache: KVCache | None = None, documents_BT: Tensor | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """Compute the normalized states before the output matrix; the list is empty.

        With `cache` the tokens are at the cache's positions. With `documents_BT` (document numbers) a token attends to its own
        document only. Raises ValueError beyond `max_position_embeddings`.
        """
        if self.config.attention == "plain":
            return super().hidden_states(tokens_BT, cache, documents_BT)
        self.check_length(tokens_BT, cache)
        scope = self._scope(tokens_BT, documents_BT) if cache is None else self._cached_scope(tokens_BT, cache)
        num_layers = len(self.layers)

        def run_block(layer: int, block: nn.Module, hidden_BTD: Tensor) -> tuple[Tensor, None]:
            """Run one block; the cache keeps its hidden states in a layer of its own."""
            output: tuple[Tensor, None] = block(hidden_BTD, scope, None if cache is None else (cache, layer, num_layers + layer))
            return output

        return self.norm(self.layers.run(self.embed_tokens(tokens_BT), run_block)[0]), []

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        return F.linear(self.hidden_states(tokens_BT, cache)[0], self.lm_head_weight, self.head_bias)

    def segment_starts(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Return at which tokens a segment begins.

        `positions_BT` count from the start of the document. Raises ConfigError if the model does not know its bar tokens.
        """
        if self.config.summaries == "stride":
            return positions_BT % self.config.summary_stride == 0
        if not len(self.bar_ids):
            raise ConfigError("model.bar_token_ids must name the tokens that begin a bar for summaries: bar, got null")
        return torch.isin(tokens_BT, self.bar_ids)

    def _scope(self, tokens_BT: Tensor, documents_BT: Tensor | None) -> HierarchicalScope:
        positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        new_document_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        if documents_BT is not None:
            new_document_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
            positions_BT = positions_BT - (positions_BT * new_document_BT).cummax(1).values
        segments_BT = number_segments(self.segment_starts(tokens_BT, positions_BT) | new_document_BT)
        c = self.config
        return hierarchical_attention.causal_scope(segments_BT, c.local_window, self.head_dim, c.rope_theta, documents_BT)

    def _cached_scope(self, tokens_BT: Tensor, cache: KVCache) -> HierarchicalScope:
        """Number the segments of all cached tokens: the cache also keeps where segments begin, after the layers of the blocks."""
        starts_B1T1 = self.segment_starts(tokens_BT, cache.positions_BT)[:, None, :, None]
        slot_starts_B1L1, _, _ = cache.append(2 * len(self.layers), starts_B1T1, starts_B1T1)
        slot_segments_BL = number_segments(slot_starts_B1L1[:, 0, :, 0])
        segments_BT = slot_segments_BL.gather(1, cache.positions_BT)
        c = self.config
        return hierarchical_attention.cached_scope(
            segments_BT, slot_segments_BL, cache.positions_BT, c.local_window, self.head_dim, c.rope_theta
        )

    @property
    def head_dim(self) -> int:
        """Return the size of an attention head."""
        return self.config.hidden_size // self.config.num_attention_heads


def number_segments(starts_BT: Tensor) -> Tensor:
    """Assign numbers to segments, from 0.

    The first one begins with the sequence, whether or not its first token begins a segment.
    """
    return starts_BT.cumsum(1) - starts_BT[:, :1].long()


def build_block(config: MusicTransformerConfig) -> TransformerBlock | HierarchicalBlock:
    """Build one transformer block."""
    c = config
    mlp = SwiGLU(c.hidden_size, c.intermediate_size) if c.variant == "llama" else MLP(c.hidden_size, c.intermediate_size)
    bias = c.variant == "gpt2"
    if c.attention == "hierarchical":
        hierarchical = HierarchicalAttention(c.hidden_size, c.num_attention_heads, build_norm(c), c.dropout, bias)
        return HierarchicalBlock(build_norm(c), hierarchical, build_norm(c), mlp, c.dropout)
    plain = Attention(c.hidden_size, c.num_attention_heads, c.num_attention_heads, c.dropout, bias)
    return TransformerBlock(build_norm(c), plain, build_norm(c), mlp, c.dropout)


def build_norm(config: MusicTransformerConfig) -> NormLayer:
    """Build the norm of the variant: RMSNorm or LayerNorm."""
    norm_type = RMSNorm if config.variant == "llama" else nn.LayerNorm
    return norm_type(config.hidden_size, config.norm_eps)


def build_music_transformer(config: MusicTransformerConfig, vocab_size: int) -> MusicTransformer:
    """Build a model, initialized from torch's global generator."""
    model = MusicTransformer(config, vocab_size)
    decoder.init_weights(model)
    return model


def num_params(config: MusicTransformerConfig, vocab_size: int) -> dict[str, int]:
    """Count parameters by part in closed form.

    Every parameter is `active`, used for every token.
    """
    c, gpt2 = config, config.variant == "gpt2"
    num_mlp_params = feed_forward.num_mlp_params if gpt2 else feed_forward.num_swiglu_params
    num_norm_params = c.hidden_size * (2 if gpt2 else 1)
    if c.attention == "hierarchical":
        attention_params = hierarchical_attention.num_hierarchical_attention_params(c.hidden_size, gpt2, num_norm_params)
    else:
        attention_params = attention.num_attention_params(c.hidden_size, c.num_attention_heads, c.num_attention_heads, gpt2)
    parts = {
        "embedding": vocab_size * c.hidden_size,
        "attention": c.num_hidden_layers * attention_params,
        "feed_forward": c.num_hidden_layers * num_mlp_params(c.hidden_size, c.intermediate_size),
        "norms": (2 * c.num_hidden_layers + 1) * num_norm_params,
        "head": (0 if c.tie_word_embeddings else vocab_size * c.hidden_size) + c.head_bias * vocab_size,
    }
    total = sum(parts.values())
    return {**parts, "total": total, "active": total}


def flops_per_token(config: MusicTransformerConfig, vocab_size: int, seq_len: int) -> int:
    """Count the FLOPs of a forward and backward pass per token, in closed form.

    6 for each matrix element, plus attention. The keys and values of summaries are computed once for each segment. With bars it is an
    estimate: every segment counts as `summary_stride` tokens.
    """
    c = config
    mlp_params = (3 if c.variant == "llama" else 2) * c.hidden_size * c.intermediate_size
    head = 6 * vocab_size * (c.hidden_size + c.head_bias)
    if c.attention == "plain":
        layer = 6 * (4 * c.hidden_size**2 + mlp_params) + 3 * attention.attention_flops(c.hidden_size, seq_len)
        return head + c.num_hidden_layers * layer
    num_segments = -(-seq_len // c.summary_stride)
    layer = 6 * (6 * c.hidden_size**2 + mlp_params) + hierarchical_attention.hierarchical_attention_flops(
        c.hidden_size, seq_len, c.local_window, num_segments
    )
    return head + c.num_hidden_layers * layer
