"""A subject in, the same weights in the reference implementation of its architecture, that of Hugging Face's transformers, out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.errors import UserError
from provenlm.evaluation.probe import Subject
from provenlm.models.common.hf_export import Published


@dataclass(frozen=True)
class Counterpart:
    """`logits(tokens_BT)` of the reference, in evaluation mode; `name` is that of its class."""

    name: str
    model: Any

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self.model(input_ids=tokens_BT, use_cache=False).logits
        return logits_BTV


def counterpart(subject: Subject) -> Counterpart | str:
    """The reference, with the weights that an export would write and nothing else of ours; in words why there is none.

    ValueError if the export lacks a tensor that the reference has, or has one that the reference lacks.
    """
    try:
        exported = subject.published(subject.model.state_dict())
    except UserError as error:
        return str(error)
    return built(exported, subject.device)


def built(exported: Published, device: torch.device) -> Counterpart:
    """The reference that `exported` describes, filled with its tensors."""
    import transformers

    (name,) = exported.config["architectures"]
    kind = getattr(transformers, name)
    with torch.random.fork_rng(), torch.device(device):
        model: nn.Module = kind._from_config(kind.config_class(**exported.config), attn_implementation="sdpa")
    missing, unexpected = _fill(model, exported.tensors)
    tied = {"lm_head.weight"} if exported.config["tie_word_embeddings"] else set()
    if wrong := [*unexpected, *sorted(set(missing) - tied)]:
        raise ValueError(f"the export and {name} do not have the same tensors: {', '.join(wrong[:3])}")
    model.tie_weights()  # type: ignore[operator]
    return Counterpart(name, model.eval())


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    missing, unexpected = model.load_state_dict(dict(tensors), strict=False)
    return list(missing), list(unexpected)
