"""Our weights in; out, the same in the names of Hugging Face's transformers, with the configuration it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class HFExport:
    """`config`: what config.json says of the net, without its special tokens; `tensors`: what model.safetensors holds."""

    config: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]


def add_model_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of Llama and Mixtral: ours below `model.`, the head beside it."""
    return {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in state_dict.items()}
