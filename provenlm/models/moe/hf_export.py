"""Convert the mixture-of-experts decoder to Mixtral of Hugging Face transformers."""

from collections.abc import Mapping

from torch import Tensor

from provenlm.core.errors import ConfigError
from provenlm.models.common.hf_export import HFExport, add_model_prefix
from provenlm.models.moe.config import MoEConfig


def to_hf(config: MoEConfig, vocab_size: int, state_dict: Mapping[str, Tensor]) -> HFExport:
    """Convert the state dict of a MoEModel; tensors keep their layout.

    Raises ConfigError for routers with an expert bias, which Mixtral's do not have.
    """
    c = config
    if c.load_balancing == "bias":
        raise ConfigError(
            "model.load_balancing: must be aux_loss or global_aux_loss for export to Hugging Face's Mixtral, got bias"
        )
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
