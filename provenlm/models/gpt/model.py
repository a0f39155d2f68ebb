"""The dense decoder: token ids in, logits of the next token at every position out."""

from torch import nn

from provenlm.models.common.layers import attention, decoder, feed_forward
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import Block, Norm
from provenlm.models.common.layers.feed_forward import Perceptron, SwiGLU
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.gpt.config import Settings


class Decoder(decoder.Decoder):
    """Embedding, dense blocks, norm and head."""

    def __init__(self, settings: Settings, vocabulary: int) -> None:
        s = settings
        super().__init__(vocabulary, s.hidden, s.context, (block(s) for _ in range(s.layers)), norm(s), s.tied, s.rope_theta)


def block(settings: Settings) -> Block:
    s = settings
    attend = Attention(s.hidden, s.heads, s.kv_heads, s.dropout, bias=s.style == "gpt2")
    mlp = SwiGLU(s.hidden, s.inner) if s.style == "llama" else Perceptron(s.hidden, s.inner)
    return Block(norm(s), attend, norm(s), mlp, s.dropout)


def norm(settings: Settings) -> Norm:
    kind = RMSNorm if settings.style == "llama" else nn.LayerNorm
    return kind(settings.hidden, settings.norm_eps)


def build(settings: Settings, vocabulary: int) -> Decoder:
    """A decoder, initialised from torch's current generator."""
    model = Decoder(settings, vocabulary)
    decoder.initialise(model)
    return model


def count(settings: Settings, vocabulary: int) -> dict[str, int]:
    """Parameters by part in closed form. `active`, those that one token meets, are all."""
    s, gpt2 = settings, settings.style == "gpt2"
    inner = feed_forward.perceptron_parameters if gpt2 else feed_forward.swiglu_parameters
    parts = {
        "embedding": vocabulary * s.hidden,
        "positions": gpt2 * s.context * s.hidden,
        "attention": s.layers * attention.parameters(s.hidden, s.heads, s.kv_heads, bias=gpt2),
        "feed_forward": s.layers * inner(s.hidden, s.inner),
        "norms": (2 * s.layers + 1) * s.hidden * (2 if gpt2 else 1),
        "head": 0 if s.tied else vocabulary * s.hidden,
    }
    total = sum(parts.values())
    return {**parts, "total": total, "active": total}


def flops(settings: Settings, vocabulary: int, length: int) -> int:
    """Of a forward and a backward pass, by token: 6 for each matrix element, and attention over `length` positions."""
    s = settings
    attend = attention.parameters(s.hidden, s.heads, s.kv_heads, bias=False)
    inner = (3 if s.style == "llama" else 2) * s.hidden * s.inner
    matrices = vocabulary * s.hidden + s.layers * (attend + inner)
    return 6 * matrices + 3 * s.layers * attention.products(s.hidden, length)
