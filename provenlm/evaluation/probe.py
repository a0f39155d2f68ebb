"""A probe looks at a trained net and records figures. One that raises leaves a figure that says so, which no bound admits."""

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
    """What a probe may look at.

    `logits(model, tokens_BT)` gives logits_BTV of the next token; `length` is the longest T the model was trained on.
    `continued(model, tokens_BT, cache)` gives the same of tokens behind those that the cache was shown; None where a net keeps none.
    `untrained()` builds the net as it was before its first step; `small(vocabulary)` one of its kind in a smaller shape, from torch's
    current generator. `published(weights)` are a model's weights as Hugging Face's transformers have them. `losses(model, inputs_BT, targets_BT)` are what training minimises, by objective.
    `closed_form` counts its parameters without building: by part, and `total` and `active` (per token).
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
        return next(self.model.parameters()).device

    @property
    def val_or_train_split(self) -> DatasetSplit:
        """The held-out split, or the training split where nothing was held out: for probes of mechanism, not of generalisation."""
        return self.tokens.val if len(self.tokens.val.record_ids) else self.tokens.train


Probe = Callable[[EvalContext, MetricRecorder], None]


@dataclass(frozen=True)
class ValidateSpec:
    """A domain's own questions: `probes(settings)` by name, asked in order after the general ones."""

    config_type: type
    probes: Callable[[Any], Mapping[str, Probe]]
