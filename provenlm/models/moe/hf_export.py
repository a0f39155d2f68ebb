"""The decoder as Mixtral of Hugging Face's transformers: names and configuration, every tensor as it is."""

from collections.abc import Mapping

from torch import Tensor

from provenlm.core.errors import ProvenlmError
from provenlm.models.common.hf_export import HFExport, add_model_prefix
from provenlm.models.moe.config import MoEConfig


def to_hf(config: MoEConfig, vocab_size: int, state_dict: Mapping[str, Tensor]) -> HFExport:
    """`weights` are the state of a Decoder of these settings. ProvenlmError if its routers have a bias, which Mixtral's do not."""
    c = config
    if c.load_balancing == "bias":
        raise ProvenlmError("Mixtral's routers have no bias, so a net with balance: bias has no counterpart in transformers")
    hf_config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "num_local_experts": c.num_experts,
        "num_experts_per_tok": c.num_experts_per_tok,
        "max_position_embeddings": c.max_position_embeddings,
        "tie_word_embeddings": c.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": c.dropout,
        "router_aux_loss_coef": c.load_balancing_weight,
        "sliding_window": None,
    }
    return HFExport(hf_config, add_model_prefix(state_dict))
