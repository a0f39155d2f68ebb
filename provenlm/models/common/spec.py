"""Define `ModelSpec`, the interface of a model.

A model package holds `SPEC = ModelSpec(...)` in its `spec.py`.
"""

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
    """Describe a model as functions of its config.

    `build(config, vocab_size)` returns the module, initialised from torch's global generator; it also works on the meta device.
    `objectives(model, ignore)` returns what training minimises: one objective for a decoder, two for a GAN.
    `logits(model, tokens_BT)` returns logits_BTV of the next token at every position; the model is causal.
    `logits_with_cache(model, tokens_BT, cache)` returns the same for tokens that follow the cached ones.
    `num_params(config, vocab_size)` returns the closed-form parameter counts by part, and `total` and `active` (per token).
    `flops_per_token(config, vocab_size, seq_len)` returns the closed-form training FLOPs (forward and backward) per token.
    `eval_metrics(model, tokens_BT)` returns metrics particular to the model: name -> (value, unit, description).
    `max_seq_len(config)` returns the largest number of positions that `logits` accepts.
    `to_hf(config, vocab_size, state_dict)` returns the weights in the names and layout of Hugging Face transformers.
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
        """Compute the minimised loss of every objective on a batch, by objective name."""
        batch = Batch(inputs_BT, targets_BT)
        return {objective.name: objective.loss(batch)["loss"] for objective in self.objectives(model, IGNORE)}


class ResolvedModel(NamedTuple):
    """Hold the model that a recipe names: spec, parsed config, section as written."""

    arch: str
    spec: ModelSpec
    model_config: Any
    section: Mapping[str, Any]


def resolve_model(section: Mapping[str, Any], location: str) -> ResolvedModel:
    """Parse a recipe's model section; `location` is the prefix of error messages.

    Raises ConfigError if the section names no known model.
    """
    if "arch" not in section:
        raise ProvenlmError(f"{location}: missing key 'arch'; known: {', '.join(registry.plugin_names('models'))}")
    spec = registry.load_model(section["arch"], ModelSpec)
    fields = {name: value for name, value in section.items() if name != "arch"}
    return ResolvedModel(section["arch"], spec, config.parse_config(spec.config_type, fields, location), fields)
