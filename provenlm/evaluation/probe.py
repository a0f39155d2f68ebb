"""Define probes and the context in which they measure a trained model.

A probe is a function with its needs and the standard checks of its metrics. Whether a probe applies is decided by the runner from
its needs: capabilities that the model's SPEC offers and CONDITIONS that the stage derives from recipe and data. A probe that
raises or records nothing leaves the metric `<probe>.error` and fails the report.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import Check, MetricRecorder
from provenlm.core.interfaces import Tokenizer
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.hf_export import HFExport
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import Batch, Objective
from provenlm.models.common.spec import CAPABILITIES, Latent
from provenlm.models.generation.latent_generation import LatentStream
from provenlm.training.trainer import Trainer

# condition -> the reason that the report shows if it is not met
CONDITIONS = {
    "validation_split": "the validation split is empty",
    "val_history": "fewer than 5 validation losses were measured during training (train.eval)",
    "random_init": "training started from a base model",
    "train.compile": "the recipe does not compile the blocks of the model (train.compile)",
    "hf_format": "Hugging Face transformers cannot represent this model",
    "attention_layers": "the model has no attention layers",
    "decoder_blocks": "the model is not a stack of decoder blocks over token embeddings",
    "expert_layers": "the model has no expert layers",
    "scaling_law": "the scaling law gives more than ln(vocab_size): the model is far smaller than those that it was fitted on",
    "generation_prompts": "the recipe names no prompts and no validation document is longer than a prompt",
    "count_only_models": "the recipe names no count_only_models (validate.count_only_models)",
    "sweep_seeds": "the recipe names no seeds to train with (validate.sweeps)",
    "sweep_checkpoints": "the recipe names no sweeps (validate.sweeps), or no checkpoint was kept beside the model",
}


@dataclass(frozen=True)
class EvalContext:
    """Hold the model under evaluation and everything that a probe may use.

    - `logits(model, tokens_BT)`: next-token logits_BTV, for T up to `max_seq_len`, the longest sequence of the training.
    - `logits_with_cache(model, tokens_BT, cache)`: logits of tokens that follow those in the cache; None if the model has no cache.
    - `token_batches`: whether the model trains on next-token batches; else on batches of its domain.
    - `build_untrained()`: the model as it was before its first step.
    - `build_small(vocab_size)`: a small model of the same architecture, initialized from torch's current generator.
    - `losses(model, batch)`: the training losses by objective.
    - `objectives(model)`: the objectives of the training; None in contexts without one.
    - `make_trainer(model, tokens, changes)`: the recipe's training of a model, which it changes, with some fields of TrainConfig changed.
    - `max_positions`: the length of the longest sequence that the model accepts, which may be above `max_seq_len`.
    - `latent`: access to the latent space of the model; None if it has none.
    - `has_base_model`: whether training started from a base model instead of random weights.
    - `base_training_records`: ids of the records that the base model was trained on; None if they are unknown.
    - `objective_params(model)`: the parameters that each objective trains; None: each trains all parameters.
    - `train_batch(num_sequences)`: the first sequences of the training batches, on the CPU.
    - `to_hf(state_dict)`: the weights in the format of Hugging Face transformers; None if there is no such format.
    - `analytic_counts`: parameter counts by formula: one for each part, `total`, and `active` (per token).
    """

    model: nn.Module
    logits: Callable[[nn.Module, Tensor], Tensor]
    logits_with_cache: Callable[[nn.Module, Tensor, KVCache], Tensor] | None
    build_untrained: Callable[[], nn.Module]
    build_small: Callable[[int], nn.Module]
    losses: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    train_batch: Callable[[int], Batch]
    to_hf: Callable[[Mapping[str, Tensor]], HFExport] | None
    analytic_counts: Mapping[str, int]
    tokenizer: Tokenizer
    tokens: TokenDataset
    max_seq_len: int
    seed: int
    token_batches: bool = True
    objective_params: Callable[[nn.Module], Mapping[str, Sequence[nn.Parameter]]] | None = None
    objectives: Callable[[nn.Module], Sequence[Objective]] | None = None
    make_trainer: Callable[[nn.Module, TokenDataset, Mapping[str, Any]], Trainer] | None = None
    max_positions: int | None = None
    latent: Latent | None = None
    has_base_model: bool = False
    base_training_records: frozenset[str] | None = None

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    @property
    def val_or_train_split(self) -> DatasetSplit:
        """Return the validation split, or the training split if it is empty.

        It is for probes that do not measure generalisation.
        """
        return self.tokens.val if len(self.tokens.val.record_ids) else self.tokens.train


@dataclass(frozen=True)
class Probe:
    """Measure one property of a model.

    `run(context, recorder)` records at least one metric. `needs`: capabilities of the SPEC and conditions without which the
    runner does not call it. `checks`: what its metrics must be, by their relative names; operands without a subject are metrics
    of the same audit.
    """

    run: Callable[[EvalContext, MetricRecorder], None]
    needs: frozenset[str] = frozenset()
    checks: Mapping[str, Check] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidateSpec:
    """Define a domain's own evaluation.

    `probes(config)` returns its probes by name; they run after the general ones. `conditions(config, context)` returns what they
    need of the data: by name None, or the reason why it is not met. `formats` maps the suffix of a file to the function that turns
    decoded content into such a file, such as ".mid", ".svg" or ".wav"; it is empty if the content is text. `latent_stream(tokenizer)`
    returns what token ids mean to a model with latents; None if the domain has no such models.
    """

    config_type: type
    probes: Callable[[Any], Mapping[str, Probe]]
    conditions: Callable[[Any, EvalContext], Mapping[str, str | None]] = lambda config, context: {}
    formats: Mapping[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    latent_stream: Callable[[Any], LatentStream] | None = None


def available_needs(
    offered: frozenset[str], conditions: Mapping[str, bool | str], domain_conditions: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Return for every need None if it is met, else the reason why not.

    `offered`: capabilities of the SPEC. `conditions`: each of CONDITIONS as true, false or the reason why it is not met.
    ValueError if a condition is missing, unknown or named like another need.
    """
    if conditions.keys() != CONDITIONS.keys():
        raise ValueError(f"conditions must be those of CONDITIONS, got {sorted(conditions.keys() ^ CONDITIONS.keys())} in one only")
    if clashing := sorted(domain_conditions.keys() & {*CAPABILITIES, *CONDITIONS}):
        raise ValueError(f"conditions of a domain must have names of their own, got {clashing[0]!r}")
    needs: dict[str, str | None] = {
        name: None if name in offered else f"the model has no capability {name}" for name in CAPABILITIES
    }
    for name, state in conditions.items():
        needs[name] = None if state is True else CONDITIONS[name] if state is False else state
    return {**needs, **domain_conditions}
