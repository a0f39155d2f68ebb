"""The decoder: token ids in, logits of the next token at every position out.

Module and parameter names are those of Hugging Face's Mixtral below its `model.`, so that an export renames and never reshapes.

Shapes: B batch, T positions, N = B·T tokens, D hidden, V vocabulary, H components of a head.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.layers import attention, experts, rotary
from provenlm.layers.attention import Attention
from provenlm.layers.experts import Experts
from provenlm.layers.norm import RMSNorm
from provenlm.layers.router import Router, Routing
from provenlm.nets.moe.settings import Settings


class Mixture(nn.Module):
    """The feed-forward half of a block: a router and its experts."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.gate = Router(settings.hidden, settings.experts, settings.experts_per_token)
        self.experts = Experts(settings.experts, settings.hidden, settings.expert_hidden)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, Routing]:
        states_ND = hidden_BTD.flatten(0, 1)
        routing: Routing = self.gate(states_ND)
        return self.experts(states_ND, routing.chosen_NK, routing.weights_NK).view_as(hidden_BTD), routing


class Block(nn.Module):
    """One layer: what attention says is added to the state, then what the experts say."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(settings.hidden, settings.norm_eps)
        self.self_attn = Attention(settings.hidden, settings.heads, settings.kv_heads, settings.dropout)
        self.post_attention_layernorm = RMSNorm(settings.hidden, settings.norm_eps)
        self.mlp = Mixture(settings)
        self.dropout = settings.dropout

    def forward(self, hidden_BTD: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> tuple[Tensor, Routing]:
        hidden_BTD = hidden_BTD + self._dropped(self.self_attn(self.input_layernorm(hidden_BTD), cos_TH, sin_TH))
        said_BTD, routing = self.mlp(self.post_attention_layernorm(hidden_BTD))
        return hidden_BTD + self._dropped(said_BTD), routing

    def _dropped(self, said_BTD: Tensor) -> Tensor:
        return F.dropout(said_BTD, self.dropout, self.training) if self.dropout else said_BTD


class Decoder(nn.Module):
    """Embedding, blocks, norm and head."""

    def __init__(self, settings: Settings, vocabulary: int) -> None:
        super().__init__()
        self.settings = settings
        self.embed_tokens = nn.Embedding(vocabulary, settings.hidden)
        self.layers = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = RMSNorm(settings.hidden, settings.norm_eps)
        self.lm_head = None if settings.tied else nn.Linear(settings.hidden, vocabulary, bias=False)

    @property
    def head(self) -> Tensor:
        """The matrix (V, D) that turns states into logits: the embedding itself where the two are tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def states(self, tokens_BT: Tensor) -> tuple[Tensor, list[Routing]]:
        """The normed states before the head, and each layer's dispatch. ValueError for more positions than `context`."""
        length = tokens_BT.shape[1]
        if length > self.settings.context:
            raise ValueError(f"{length} positions asked of a net with a context of {self.settings.context}")
        head = self.settings.hidden // self.settings.heads
        cos_TH, sin_TH = rotary.angles(length, head, self.settings.rope_theta, tokens_BT.device)
        hidden_BTD = self.embed_tokens(tokens_BT)
        routings = []
        for block in self.layers:
            hidden_BTD, routing = block(hidden_BTD, cos_TH, sin_TH)
            routings.append(routing)
        return self.norm(hidden_BTD), routings

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.linear(self.states(tokens_BT)[0], self.head)


def build(settings: Settings, vocabulary: int) -> Decoder:
    """A decoder, initialised from torch's current generator: the embedding with deviation 0.02, matrices with 1/√(fan-in).

    What writes into the residual stream begins at zero (as in nanochat): every block is the identity at the first step.
    """
    model = Decoder(settings, vocabulary)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj")):
            nn.init.zeros_(parameter)
        elif name in ("embed_tokens.weight", "lm_head.weight"):
            nn.init.normal_(parameter, 0.0, 0.02)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
    return model


def logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """logits_BTV of the token after each position."""
    logits_BTV: Tensor = model(tokens_BT)
    return logits_BTV


def count(settings: Settings, vocabulary: int) -> dict[str, int]:
    """Parameters by part in closed form. `active` are those that one token meets: all but the experts that it is not sent to."""
    s = settings
    parts = {
        "embedding": vocabulary * s.hidden,
        "attention": s.layers * attention.parameters(s.hidden, s.heads, s.kv_heads),
        "experts": s.layers * experts.parameters(s.experts, s.hidden, s.expert_hidden),
        "router": s.layers * s.experts * s.hidden,
        "norms": (2 * s.layers + 1) * s.hidden,
        "head": 0 if s.tied else vocabulary * s.hidden,
    }
    total = sum(parts.values())
    idle = s.layers * experts.parameters(s.experts - s.experts_per_token, s.hidden, s.expert_hidden)
    return {**parts, "total": total, "active": total - idle}
