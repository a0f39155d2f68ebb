"""Build the dense decoder and count its parameters and FLOPs in closed form."""

from torch import nn

from provenlm.models.common.layers import attention, decoder, feed_forward
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import NormLayer, TransformerBlock
from provenlm.models.common.layers.feed_forward import MLP, SwiGLU
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.gpt.config import GPTConfig


class GPTModel(decoder.Decoder):
    """Compute next-token logits with dense transformer blocks."""

    def __init__(self, config: GPTConfig, vocab_size: int) -> None:
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


def build_block(config: GPTConfig) -> TransformerBlock:
    """Build one transformer block."""
    c = config
    self_attn = Attention(c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.dropout, bias=c.variant == "gpt2")
    mlp = SwiGLU(c.hidden_size, c.intermediate_size) if c.variant == "llama" else MLP(c.hidden_size, c.intermediate_size)
    return TransformerBlock(build_norm(c), self_attn, build_norm(c), mlp, c.dropout)


def build_norm(config: GPTConfig) -> NormLayer:
    """Build the norm of the variant: RMSNorm or LayerNorm."""
    norm_type = RMSNorm if config.variant == "llama" else nn.LayerNorm
    return norm_type(config.hidden_size, config.norm_eps)


def build_gpt(config: GPTConfig, vocab_size: int) -> GPTModel:
    """Build a decoder, initialized from torch's global generator."""
    model = GPTModel(config, vocab_size)
    decoder.init_weights(model)
    return model


def num_params(config: GPTConfig, vocab_size: int) -> dict[str, int]:
    """Count parameters by part in closed form.

    Every parameter is `active`, used for every token.
    """
    c, gpt2 = config, config.variant == "gpt2"
    num_mlp_params = feed_forward.num_mlp_params if gpt2 else feed_forward.num_swiglu_params
    parts = {
        "embedding": vocab_size * c.hidden_size,
        "positions": gpt2 * c.max_position_embeddings * c.hidden_size,
        "attention": c.num_hidden_layers
        * attention.num_attention_params(c.hidden_size, c.num_attention_heads, c.num_key_value_heads, bias=gpt2),
        "feed_forward": c.num_hidden_layers * num_mlp_params(c.hidden_size, c.intermediate_size),
        "norms": (2 * c.num_hidden_layers + 1) * c.hidden_size * (2 if gpt2 else 1),
        "head": 0 if c.tie_word_embeddings else vocab_size * c.hidden_size,
    }
    total = sum(parts.values())
    return {**parts, "total": total, "active": total}


def flops_per_token(config: GPTConfig, vocab_size: int, seq_len: int) -> int:
    """Count the FLOPs of a forward and backward pass per token, in closed form.

    6 for each matrix element, plus attention over `seq_len` positions.
    """
    c = config
    attention_params = attention.num_attention_params(c.hidden_size, c.num_attention_heads, c.num_key_value_heads, bias=False)
    mlp_params = (3 if c.variant == "llama" else 2) * c.hidden_size * c.intermediate_size
    matrices = vocab_size * c.hidden_size + c.num_hidden_layers * (attention_params + mlp_params)
    return 6 * matrices + 3 * c.num_hidden_layers * attention.attention_flops(c.hidden_size, seq_len)
