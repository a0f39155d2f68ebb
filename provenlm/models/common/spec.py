"""The questions that an architecture answers; a net's `net.py` holds `SPEC = Net(...)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from provenlm.core import config, registry
from provenlm.core.errors import ProvenlmError
from provenlm.models.common.hf_export import HFExport
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import IGNORE, Batch, Objective


@dataclass(frozen=True)
class ModelSpec:
    """An architecture as functions of its settings.

    `build(settings, vocabulary)` works on torch's meta device too and initialises from torch's current generator.
    `objectives(model, ignore)` are what training minimises (one for a decoder, two for a GAN).
    `logits(model, tokens_BT)` gives logits_BTV of the next token at every position, causal.
    `continued(model, tokens_BT, cache)` gives the same of tokens that stand behind those that the cache was shown before.
    `count(settings, vocabulary)` is the closed form: parameters by part, and `total` and `active` (per token), without building.
    `flops(settings, vocabulary, length)` are those of training, forward and backward, by token of a row of `length`, in closed form.
    `probe(model, tokens_BT)` gives figures particular to the net: name -> (value, unit, meaning), such as expert load.
    `context(settings)` is the most positions that `logits` takes.
    `published(settings, vocabulary, weights)` are a model's weights in the names and layout of Hugging Face's transformers.
    """

    config_type: type
    build: Callable[[Any, int], nn.Module]
    objectives: Callable[[nn.Module, int], Sequence[Objective]]
    logits: Callable[[nn.Module, Tensor], Tensor]
    logits_with_cache: Callable[[nn.Module, Tensor, KVCache], Tensor]
    num_params: Callable[[Any, int], Mapping[str, int]]
    flops_per_token: Callable[[Any, int, int], int]
    eval_metrics: Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]]
    max_seq_len: Callable[[Any], int]
    to_hf: Callable[[Any, int, Mapping[str, Tensor]], HFExport]

    def losses(self, model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> dict[str, Tensor]:
        """What training minimises on a batch, by objective."""
        batch = Batch(inputs_BT, targets_BT)
        return {objective.name: objective.loss(batch)["loss"] for objective in self.objectives(model, IGNORE)}


class ResolvedModel(NamedTuple):
    """The architecture that a recipe names, and its settings: typed, and as they stand in the recipe."""

    arch: str
    spec: ModelSpec
    model_config: Any
    section: Mapping[str, Any]


def resolve_model(section: Mapping[str, Any], location: str) -> ResolvedModel:
    """What a recipe's `net` section asks for. ProvenlmError if it names no architecture that is there; `where` says where it stands."""
    if "kind" not in section:
        raise ProvenlmError(f"{location}: missing key 'kind'; known: {', '.join(registry.plugin_names('models'))}")
    spec = registry.load_model(section["kind"], ModelSpec)
    fields = {name: value for name, value in section.items() if name != "kind"}
    return ResolvedModel(section["kind"], spec, config.parse_config(spec.config_type, fields, location), fields)
