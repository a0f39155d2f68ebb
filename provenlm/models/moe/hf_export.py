"""The decoder as Mixtral of Hugging Face's transformers: names and configuration, every tensor as it is."""

from collections.abc import Mapping

from torch import Tensor

from provenlm.core.errors import UserError
from provenlm.models.common.hf_export import Published, below_model
from provenlm.models.moe.config import Settings


def published(settings: Settings, vocabulary: int, weights: Mapping[str, Tensor]) -> Published:
    """`weights` are the state of a Decoder of these settings. UserError if its routers have a bias, which Mixtral's do not."""
    s = settings
    if s.balance == "bias":
        raise UserError("Mixtral's routers have no bias, so a net with balance: bias has no counterpart in transformers")
    config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": vocabulary,
        "hidden_size": s.hidden,
        "intermediate_size": s.expert_hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "num_local_experts": s.experts,
        "num_experts_per_tok": s.experts_per_token,
        "max_position_embeddings": s.context,
        "tie_word_embeddings": s.tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_theta},
        "rms_norm_eps": s.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": s.dropout,
        "router_aux_loss_coef": s.balance_weight,
        "sliding_window": None,
    }
    return Published(config, below_model(weights))
