"""Test parameter counts against analytic counts."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.parameter_count import CountOnlyModel, param_count_probes
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC


def moe_config(**changes):
    shape = MoEConfig(16, 2, 2, 1, 4, 2, 24, 32, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.01, 0.001)
    return replace(shape, **changes)


def moe_context(factory, corpus, shape, **overrides):
    """Return the context of a model without zero weights, as after training."""
    torch.manual_seed(0)
    model = SPEC.build(shape, 29)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return factory.context(model, corpus, analytic_counts=SPEC.num_params(shape, 29), **overrides)


def test_the_model_has_as_many_parameters_as_its_analytic_count(factory, corpus, run_probe):
    metrics = run_probe(param_count_probes({})["params"], moe_context(factory, corpus, moe_config()))
    assert metrics["total"] == metrics["analytic.total"] == metrics["trainable"]
    active = run_probe(param_count_probes({})["params.active"], moe_context(factory, corpus, moe_config()))
    assert (metrics["count_minus_analytic.total"], active["count_minus_analytic"]) == (0, 0)
    assert active["measured"] < metrics["total"]


@pytest.mark.parametrize("top", [1, 2, 3, 4])
def test_active_parameters_follow_the_number_of_experts_per_token(factory, corpus, run_probe, top):
    context, probes = moe_context(factory, corpus, moe_config(num_experts_per_tok=top)), param_count_probes({})
    total = run_probe(probes["params"], context)["total"]
    assert run_probe(probes["params.active"], context)["measured"] == total - 2 * (4 - top) * 3 * 16 * 24


def test_an_untied_head_counts(factory, corpus, run_probe):
    tied, untied = (
        run_probe(param_count_probes({})["params"], moe_context(factory, corpus, moe_config(tie_word_embeddings=tied)))["total"]
        for tied in (True, False)
    )
    assert untied - tied == 29 * 16


@pytest.mark.parametrize(
    ("part", "probe", "metric"),
    [("total", "params", "count_minus_analytic.total"), ("active", "params.active", "count_minus_analytic")],
)
def test_an_analytic_count_off_by_one_is_caught(factory, corpus, run_probe, part, probe, metric):
    context = moe_context(factory, corpus, moe_config())
    planted = replace(context, analytic_counts={**context.analytic_counts, part: context.analytic_counts[part] + 1})
    assert run_probe(param_count_probes({})[probe], planted)[metric] == -1


def test_frozen_parameters_are_not_trainable(factory, corpus, run_probe):
    context = moe_context(factory, corpus, moe_config())
    context.model.embed_tokens.requires_grad_(False)
    metrics = run_probe(param_count_probes({})["params"], context)
    assert metrics["total"] - metrics["trainable"] == 29 * 16


def test_a_shape_too_large_to_build_is_counted_on_the_meta_device(factory, corpus, run_probe):
    """The two shapes were published as 200 M parameters; the numbers are computed by hand."""
    shapes = {
        "second": moe_config(
            hidden_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            num_experts=8,
            intermediate_size=2048,
            max_position_embeddings=2048,
        )
    }
    draft_config = moe_config(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        num_experts=32,
        num_experts_per_tok=4,
        intermediate_size=4096,
        max_position_embeddings=2048,
    )
    shapes["first"] = draft_config
    probe = param_count_probes(
        {name: CountOnlyModel(lambda s=s: SPEC.build(s, 32_000), SPEC.num_params(s, 32_000)) for name, s in shapes.items()}
    )["params.reference_models"]
    recorder = MetricRecorder()
    probe.run(moe_context(factory, corpus, moe_config()), recorder)
    metrics = {name: metric.value for name, metric in recorder.metrics.items()}
    assert (
        recorder.metrics["second.total"].description
        == "Parameters of the shape second, which was not trained; shared tensors count once"
    )
    assert metrics["second.total"] == 222_994_944
    assert metrics["second.analytic.active"] == 72_000_000
    assert metrics["first.total"] == 9_760_195_584
    assert metrics["second.count_minus_analytic.total"] == metrics["first.count_minus_analytic.total"] == 0


def test_parts_add_up_and_layers_are_folded(factory, corpus):
    recorder = MetricRecorder()
    param_count_probes({})["params"].run(moe_context(factory, corpus, moe_config()), recorder)
    parts, tensors, _ = recorder.tables
    total = recorder.metrics["total"].value
    assert sum(row[1] for row in parts.rows) == sum(row[3] for row in tensors.rows) == total
    assert ("layers.*.mlp.experts.down_proj", "4 × 16 × 24", 2, 2 * 4 * 16 * 24) in tensors.rows


def test_counting_leaves_no_gradients_behind(factory, corpus, run_probe):
    context = moe_context(factory, corpus, moe_config())
    run_probe(param_count_probes({})["params.active"], context)
    assert all(p.grad is None for p in context.model.parameters())


def test_the_architecture_is_read_from_the_built_model(factory, corpus):
    recorder = MetricRecorder()
    param_count_probes({})["params"].run(moe_context(factory, corpus, moe_config(dropout=0.25)), recorder)
    (modules,) = [item for item in recorder.tables if item.name == "modules"]
    rows_by_module = {row[0]: row for row in modules.rows if row[0] != "Linear"}
    assert rows_by_module["RMSNorm"][1:3] == (5, 5 * 16)  # two a layer and the last
    assert "top_k 2" in rows_by_module["Router"][3] and "dropout 0.25" in rows_by_module["Attention"][3]
    assert sum(row[2] for row in modules.rows) == recorder.metrics["total"].value
