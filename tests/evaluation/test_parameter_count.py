from dataclasses import replace

import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.parameter_count import CountOnlyModel, param_count_probe
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC


def moe(**changes):
    shape = MoEConfig(16, 2, 2, 1, 4, 2, 24, 32, True, 10_000.0, 1e-5, 0.0, "layerwise", 0.01, 0.001)
    return replace(shape, **changes)


def mixture(made, corpus, shape, **changed):
    """A net of that shape in which no part is nought, as after training."""
    torch.manual_seed(0)
    model = SPEC.build(shape, 29)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return made.subject(model, corpus, closed_form=SPEC.num_params(shape, 29), **changed)


def test_the_built_net_has_as_many_parameters_as_its_closed_form_says(made, corpus, ask):
    figures = ask(param_count_probe({}), mixture(made, corpus, moe()))
    assert figures["total"] == figures["closed_form.total"] == figures["trainable"]
    assert (figures["difference.total"], figures["difference.active"]) == (0, 0)
    assert figures["active"] < figures["total"]


@pytest.mark.parametrize("top", [1, 2, 3, 4])
def test_active_parameters_follow_the_number_of_experts_that_a_token_is_sent_to(made, corpus, ask, top):
    figures = ask(param_count_probe({}), mixture(made, corpus, moe(experts_per_token=top)))
    assert figures["active"] == figures["total"] - 2 * (4 - top) * 3 * 16 * 24


def test_an_untied_head_counts(made, corpus, ask):
    tied, untied = (ask(param_count_probe({}), mixture(made, corpus, moe(tied=tied)))["total"] for tied in (True, False))
    assert untied - tied == 29 * 16


@pytest.mark.parametrize("part", ["total", "active"])
def test_a_closed_form_off_by_one_is_caught(made, corpus, ask, part):
    subject = mixture(made, corpus, moe())
    planted = replace(subject, analytic_counts={**subject.closed_form, part: subject.closed_form[part] + 1})
    assert ask(param_count_probe({}), planted)[f"difference.{part}"] == -1


def test_frozen_parameters_are_not_trainable(made, corpus, ask):
    subject = mixture(made, corpus, moe())
    subject.model.embed_tokens.requires_grad_(False)
    figures = ask(param_count_probe({}), subject)
    assert figures["total"] - figures["trainable"] == 29 * 16


def test_a_shape_too_large_to_build_is_counted_without_memory(made, corpus, ask):
    """The shape that a report once called 200 million, and its first draft, by hand: see the formula of their layers."""
    shapes = {"second": moe(hidden=512, layers=8, heads=8, kv_heads=2, experts=8, expert_hidden=2048, context=2048)}
    draft = moe(hidden=1024, layers=24, heads=16, kv_heads=4, experts=32, experts_per_token=4, expert_hidden=4096, context=2048)
    shapes["first"] = draft
    probe = param_count_probe(
        {name: CountOnlyModel(lambda s=s: SPEC.build(s, 32_000), SPEC.num_params(s, 32_000)) for name, s in shapes.items()}
    )
    figures = ask(probe, mixture(made, corpus, moe()))
    assert figures["also.second.total"] == 222_994_944
    assert figures["also.second.closed_form.active"] == 72_000_000
    assert figures["also.first.total"] == 9_760_195_584
    assert figures["also.second.difference.total"] == figures["also.first.difference.total"] == 0


def test_parts_add_up_and_layers_are_folded(made, corpus):
    recorder = MetricRecorder()
    param_count_probe({})(mixture(made, corpus, moe()), recorder)
    parts, tensors, _ = recorder.tables
    total = recorder.metrics["total"].value
    assert sum(row[1] for row in parts.rows) == sum(row[3] for row in tensors.rows) == total
    assert ("layers.*.mlp.experts.down_proj", "4 × 16 × 24", 2, 2 * 4 * 16 * 24) in tensors.rows


def test_counting_leaves_no_gradients_behind(made, corpus, ask):
    subject = mixture(made, corpus, moe())
    ask(param_count_probe({}), subject)
    assert all(p.grad is None for p in subject.model.parameters())


def test_the_architecture_is_read_from_the_built_net(made, corpus):
    recorder = MetricRecorder()
    param_count_probe({})(mixture(made, corpus, moe(dropout=0.25)), recorder)
    (modules,) = [item for item in recorder.tables if item.name == "modules"]
    found = {row[0]: row for row in modules.rows if row[0] != "Linear"}
    assert found["RMSNorm"][1:3] == (5, 5 * 16)  # two a layer and the last
    assert "chosen 2" in found["Router"][3] and "dropout 0.25" in found["Attention"][3]
    assert sum(row[2] for row in modules.rows) == recorder.metrics["total"].value
