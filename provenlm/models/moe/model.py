"""Build the mixture-of-experts decoder; count parameters and FLOPs analytically.

Shapes: B batch, T positions, N = B·T tokens, D hidden.
"""

from torch import Tensor, nn

from provenlm.models.common.layers import attention, decoder, moe_experts
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import TransformerBlock
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.models.common.layers.moe_router import Router, Routing
from provenlm.models.common.layers.rms_norm import RMSNorm
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.expert_load import ExpertLoadMeter


class SparseMoeBlock(nn.Module):
    """Send each token to its top-k experts and sum their weighted outputs."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.gate = Router(
            config.hidden_size, config.num_experts, config.num_experts_per_tok, use_expert_bias=config.load_balancing == "bias"
        )
        self.experts = Experts(config.num_experts, config.hidden_size, config.intermediate_size)

    def forward(self, hidden_BTD: Tensor) -> tuple[Tensor, Routing]:
        states_ND = hidden_BTD.flatten(0, 1)
        routing: Routing = self.gate(states_ND)
        return self.experts(states_ND, routing.topk_ids_NK, routing.weights_NK).view_as(hidden_BTD), routing


class MoEModel(decoder.Decoder):
    """Compute next-token logits with mixture-of-experts blocks, like Mixtral."""

    def __init__(self, config: MoEConfig, vocab_size: int) -> None:
        c = config
        blocks = (build_block(c) for _ in range(c.num_hidden_layers))
        super().__init__(
            vocab_size,
            c.hidden_size,
            c.max_position_embeddings,
            blocks,
            RMSNorm(c.hidden_size, c.norm_eps),
            c.tie_word_embeddings,
            c.rope_theta,
        )
        self.config = config
        self.expert_load = ExpertLoadMeter(c.num_hidden_layers, c.num_experts)

    @property
    def routers(self) -> list[Router]:
        """Return the router of each layer."""
        return [block.mlp.gate for block in self.layers]  # type: ignore[union-attr,misc]


def build_block(config: MoEConfig) -> TransformerBlock:
    """Build one transformer block."""
    c = config
    self_attn = Attention(c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.dropout, bias=False)
    return TransformerBlock(
        RMSNorm(c.hidden_size, c.norm_eps), self_attn, RMSNorm(c.hidden_size, c.norm_eps), SparseMoeBlock(c), c.dropout
    )


def build_moe(config: MoEConfig, vocab_size: int) -> MoEModel:
    """Build a decoder, initialized from torch's global generator."""
    model = MoEModel(config, vocab_size)
    decoder.init_weights(model)
    return model


def num_params(config: MoEConfig, vocab_size: int) -> dict[str, int]:
    """Count parameters by part in closed form.

    `active` are the parameters used for one token: all but the experts to which the token is not sent.
    """
    c = config
    parts = {
        "embedding": vocab_size * c.hidden_size,
        "attention": c.num_hidden_layers
        * attention.num_attention_params(c.hidden_size, c.num_attention_heads, c.num_key_value_heads, bias=False),
        "experts": c.num_hidden_layers * moe_experts.num_experts_params(c.num_experts, c.hidden_size, c.intermediate_size),
        "router": c.num_hidden_layers * c.num_experts * c.hidden_size,
        "norms": (2 * c.num_hidden_layers + 1) * c.hidden_size,
        "head": 0 if c.tie_word_embeddings else vocab_size * c.hidden_size,
    }
    total = sum(parts.values())
    inactive = c.num_hidden_layers * moe_experts.num_experts_params(
        c.num_experts - c.num_experts_per_tok, c.hidden_size, c.intermediate_size
    )
    return {**parts, "total": total, "active": total - inactive}


def flops_per_token(config: MoEConfig, vocab_size: int, seq_len: int) -> int:
    """Count the FLOPs of a forward and backward pass per token, in closed form.

    6 for each matrix element that is used for the token, plus attention over `seq_len` positions.
    """
    c = config
    parts = num_params(config, vocab_size)
    active_experts = c.num_hidden_layers * moe_experts.num_experts_params(c.num_experts_per_tok, c.hidden_size, c.intermediate_size)
    matrices = vocab_size * c.hidden_size + parts["attention"] + parts["router"] + active_experts
    return 6 * matrices + 3 * c.num_hidden_layers * attention.attention_flops(c.hidden_size, seq_len)
