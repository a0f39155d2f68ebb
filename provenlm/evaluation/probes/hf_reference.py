"""A subject in, the same weights in the reference implementation of its architecture, that of Hugging Face's transformers, out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.probe import EvalContext
from provenlm.models.common.hf_export import HFExport


@dataclass(frozen=True)
class ReferenceModel:
    """`logits(tokens_BT)` of the reference, in evaluation mode; `name` is that of its class."""

    class_name: str
    model: Any

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.model(input_ids=tokens_BT, use_cache=False).logits
        return logits_BTV


def hf_reference(context: EvalContext) -> ReferenceModel | str:
    """The reference, with the weights that an export would write and nothing else of ours; in words why there is none.

    ValueError if the export lacks a tensor that the reference has, or has one that the reference lacks.
    """
    try:
        exported = context.to_hf(context.model.state_dict())
    except ProvenlmError as error:
        return str(error)
    return build_reference(exported, context.device)


def build_reference(exported: HFExport, device: torch.device) -> ReferenceModel:
    """The reference that `exported` describes, filled with its tensors."""
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
