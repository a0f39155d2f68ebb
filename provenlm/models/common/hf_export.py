"""Hold a model in the names and layout of Hugging Face transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class HFExport:
    """Hold the content of config.json without special tokens, and the weights."""

    config: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]


def add_model_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix every name but the output head's with `model.`, as in Llama and Mixtral."""
    return {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in state_dict.items()}


def llama_config(config: Any, vocab_size: int, num_key_value_heads: int) -> dict[str, object]:
    """Return the config.json of a LlamaForCausalLM.

    `config` has the fields of a decoder with RMSNorm, SwiGLU and rotary positions, in the names of Llama.
    """
    c = config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": c.hidden_size // c.num_attention_heads,
        "max_position_embeddings": c.max_position_embeddings,
        "tie_word_embeddings": c.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "rms_norm_eps": c.norm_eps,
        "hidden_act": "silu",
        "attention_dropout": c.dropout,
        "attention_bias": False,
        "mlp_bias": False,
    }
