"""Define what a probe is: a function that measures a trained model and records metrics.

A probe that raises leaves the metric `<probe>.error`, which fails the report.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.core.interfaces import Tokenizer
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.hf_export import HFExport
from provenlm.models.common.layers.kv_cache import KVCache


@dataclass(frozen=True)
class EvalContext:
    """Hold the model under evaluation and everything that a probe may use.

    - `logits(model, tokens_BT)`: next-token logits_BTV, for T up to `max_seq_len`, the longest sequence of the training.
    - `logits_with_cache(model, tokens_BT, cache)`: logits of tokens that follow those in the cache; None if the model has no cache.
    - `build_untrained()`: the model as it was before its first step.
    - `build_small(vocab_size)`: a small model of the same architecture, initialised from torch's current generator.
    - `losses(model, inputs_BT, targets_BT)`: the training losses by objective.
    - `to_hf(state_dict)`: the weights in the format of Hugging Face transformers; ProvenlmError if there is no such format.
    - `analytic_counts`: parameter counts by formula: one for each part, `total`, and `active` (per token).
    """

    model: nn.Module
    logits: Callable[[nn.Module, Tensor], Tensor]
    logits_with_cache: Callable[[nn.Module, Tensor, KVCache], Tensor] | None
    build_untrained: Callable[[], nn.Module]
    build_small: Callable[[int], nn.Module]
    losses: Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
    to_hf: Callable[[Mapping[str, Tensor]], HFExport]
    analytic_counts: Mapping[str, int]
    tokenizer: Tokenizer
    tokens: TokenDataset
    max_seq_len: int
    seed: int

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    @property
    def val_or_train_split(self) -> DatasetSplit:
        """Return the validation split, or the training split if it is empty: for probes that do not measure generalisation."""
        return self.tokens.val if len(self.tokens.val.record_ids) else self.tokens.train


Probe = Callable[[EvalContext, MetricRecorder], None]


@dataclass(frozen=True)
class ValidateSpec:
    """Define a domain's own evaluation: `probes(config)` returns its probes by name; they run after the general ones."""

    config_type: type
    probes: Callable[[Any], Mapping[str, Probe]]
