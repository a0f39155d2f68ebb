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
