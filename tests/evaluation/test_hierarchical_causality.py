"""Plant a leak in hierarchical attention: the probes of causality must find it, and must pass the model without it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from provenlm.evaluation.probes import causality
from provenlm.models.common.layers import hierarchical_attention
from provenlm.models.music_transformer.config import MusicTransformerConfig
from provenlm.models.music_transformer.spec import SPEC

PROBES = causality.causality_probes(causality.CausalityConfig(num_positions=6, num_tokens=2048))
CONFIG = MusicTransformerConfig(
    "hierarchical", "bar", bar_token_ids=(4, 9, 14), local_window=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
)


@pytest.fixture(params=["bar", "stride"])
def context(request: Any, factory: Any, corpus: Any) -> Any:
    """Return the context of a random hierarchical model in which no parameter is zero."""
    torch.manual_seed(0)
    model = SPEC.build(replace(CONFIG, summaries=request.param, summary_stride=5), corpus.vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return factory.context(model.eval(), corpus, logits=SPEC.logits)


def show_unfinished_segments(visible_BTS: torch.Tensor) -> torch.Tensor:
    """Plant the leak: a position also sees the summary of its own segment, which includes later positions."""
    own_BTS = F.pad(visible_BTS, (1, 0), value=True)[..., :-1]
    return F.pad(own_BTS, (1, 0), value=True)[:, None]


def test_hierarchical_attention_passes_the_causality_probes(context, run_probe):
    change = run_probe(PROBES["causality"], context)
    assert change["max_past_change"] < 1e-4 and change["min_present_change"] > 0.1
    assert run_probe(PROBES["prefix_consistency"], context)["max_diff"] < 1e-4


def test_a_summary_of_an_unfinished_segment_is_found(context, run_probe, monkeypatch):
    monkeypatch.setattr(hierarchical_attention, "_with_empty_slot", show_unfinished_segments)
    assert run_probe(PROBES["causality"], context)["max_past_change"] > 1e-2
    assert run_probe(PROBES["prefix_consistency"], context)["max_diff"] > 1e-2
