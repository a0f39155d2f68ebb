"""Load the weights of a model into the Hugging Face implementation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.evaluation.probe import EvalContext
from provenlm.models.common.hf_export import HFExport


@dataclass(frozen=True)
class ReferenceModel:
    """Hold the Hugging Face model in evaluation mode and the name of its class."""

    class_name: str
    model: Any

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return the next-token logits_BTV."""
        logits_BTV: Tensor = self.model(input_ids=tokens_BT, use_cache=False).logits
        return logits_BTV


def hf_reference(context: EvalContext) -> ReferenceModel:
    """Return the Hugging Face model with the exported weights.

    ValueError if there is no such model, or if the tensors of the export and of the Hugging Face model differ.
    """
    if context.to_hf is None:
        raise ValueError("Hugging Face transformers cannot represent this model")
    return build_reference(context.to_hf(context.model.state_dict()), context.device)


def build_reference(exported: HFExport, device: torch.device) -> ReferenceModel:
    """Build the Hugging Face model that `exported` describes and load its tensors."""
    import transformers

    (class_name,) = exported.config["architectures"]
    model_class = getattr(transformers, class_name)
    with torch.random.fork_rng(), torch.device(device):
        model: nn.Module = model_class._from_config(model_class.config_class(**exported.config), attn_implementation="sdpa")
    missing, unexpected = _fill(model, exported.state_dict)
    tied = {"lm_head.weight"} if exported.config["tie_word_embeddings"] else set()
    if mismatched := [*unexpected, *sorted(set(missing) - tied)]:
        raise ValueError(f"the export and {class_name} do not have the same tensors: {', '.join(mismatched[:3])}")
    model.tie_weights()  # type: ignore[operator]
    return ReferenceModel(class_name, model.eval())


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    missing, unexpected = model.load_state_dict(dict(tensors), strict=False)
    return list(missing), list(unexpected)
