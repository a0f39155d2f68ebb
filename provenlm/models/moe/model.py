"""The decoder whose feed-forward halves are mixtures of experts: token ids in, logits of the next token at every position out.

Shapes: B batch, T positions, N = B·T tokens, D hidden.
"""

from torch import Tensor, nn

from provenlm.models.common.layers import attention, decoder, moe_experts
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import Block
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.models.common.layers.moe_router import Router, Routing
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.moe.config import Settings
from provenlm.models.moe.expert_load import Traffic


class Mixture(nn.Module):
    """The feed-forward half of a block: a router and its experts."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.gate = Router(settings.hidden, settings.experts, settings.experts_per_token, biased=settings.balance == "bias")
        self.experts = Experts(settings.experts, settings.hidden, settings.expert_hidden)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, Routing]:
        states_ND = hidden_BTD.flatten(0, 1)
        routing: Routing = self.gate(states_ND)
        return self.experts(states_ND, routing.chosen_NK, routing.weights_NK).view_as(hidden_BTD), routing


class Decoder(decoder.Decoder):
    """Llama's frame around mixtures, which is Mixtral."""

    def __init__(self, settings: Settings, vocabulary: int) -> None:
        s = settings
        blocks = (block(s) for _ in range(s.layers))
        super().__init__(vocabulary, s.hidden, s.context, blocks, RMSNorm(s.hidden, s.norm_eps), s.tied, s.rope_theta)
        self.settings = settings
        self.traffic = Traffic(s.layers, s.experts)

    @property
    def routers(self) -> list[Router]:
        """Of each layer."""
        return [block.mlp.gate for block in self.layers]  # type: ignore[union-attr,misc]


def block(settings: Settings) -> Block:
    s = settings
    attend = Attention(s.hidden, s.heads, s.kv_heads, s.dropout, bias=False)
    return Block(RMSNorm(s.hidden, s.norm_eps), attend, RMSNorm(s.hidden, s.norm_eps), Mixture(s), s.dropout)


def build(settings: Settings, vocabulary: int) -> Decoder:
    """A decoder, initialised from torch's current generator."""
    model = Decoder(settings, vocabulary)
    decoder.initialise(model)
    return model


def count(settings: Settings, vocabulary: int) -> dict[str, int]:
    """Parameters by part in closed form. `active` are those that one token meets: all but the experts that it is not sent to."""
    s = settings
    parts = {
        "embedding": vocabulary * s.hidden,
        "attention": s.layers * attention.parameters(s.hidden, s.heads, s.kv_heads, bias=False),
        "experts": s.layers * moe_experts.parameters(s.experts, s.hidden, s.expert_hidden),
        "router": s.layers * s.experts * s.hidden,
        "norms": (2 * s.layers + 1) * s.hidden,
        "head": 0 if s.tied else vocabulary * s.hidden,
    }
    total = sum(parts.values())
    idle = s.layers * moe_experts.parameters(s.experts - s.experts_per_token, s.hidden, s.expert_hidden)
    return {**parts, "total": total, "active": total - idle}


def flops(settings: Settings, vocabulary: int, length: int) -> int:
    """Of a forward and a backward pass, by token: 6 for each matrix element that a token meets, and attention over `length` positions."""
    s = settings
    parts = count(settings, vocabulary)
    chosen = s.layers * moe_experts.parameters(s.experts_per_token, s.hidden, s.expert_hidden)
    matrices = vocabulary * s.hidden + parts["attention"] + parts["router"] + chosen
    return 6 * matrices + 3 * s.layers * attention.products(s.hidden, length)
