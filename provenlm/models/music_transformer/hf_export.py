"""Convert the music transformer to Hugging Face's Llama, where it is one."""

from collections.abc import Mapping

from torch import Tensor

from provenlm.core.errors import ConfigError
from provenlm.models.common.hf_export import HFExport, add_model_prefix, llama_config
from provenlm.models.music_transformer.config import MusicTransformerConfig


def to_hf(config: MusicTransformerConfig, vocab_size: int, state_dict: Mapping[str, Tensor]) -> HFExport:
    """Convert the state dict of a MusicTransformer.

    Raises ConfigError for a model that transformers cannot represent.
    """
    if config.attention != "plain" or config.variant != "llama" or config.head_bias:
        raise ConfigError(
            "transformers has no such model: export needs attention: plain, variant: llama and head_bias: false, "
            f"got {config.attention}, {config.variant} and {str(config.head_bias).lower()}"
        )
    return HFExport(llama_config(config, vocab_size, config.num_attention_heads), add_model_prefix(state_dict))
