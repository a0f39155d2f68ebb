"""Gradient reach: sound models have no inert term, and each planted one is named."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.gradient_reach import gradient_reach_probe, measure_reach
from provenlm.models.common.objective import IGNORE, Objective, TokenBatch
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC as MOE

BATCH = TokenBatch(torch.tensor([[1, 3, 4, 7]]), torch.tensor([[3, 4, 7, 2]]))


class TwoLayers(nn.Module):
    """Predict y from x by two layers, with a third one that nothing uses unless `bypass` is false."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))


def make_objective(model, fault="", weight=0.5):
    """Return a loss of two terms: the error, and the size of the first layer's output.

    Faults: `detached` (a term without a graph), `left_out` (not in the sum), `cut` (no gradient in front of the second layer).
    """
    inputs = torch.arange(6.0).reshape(2, 3) / 6

    def loss(batch):
        hidden = torch.tanh(model.first(inputs))
        output = model.second(hidden.detach() if fault == "cut" else hidden)
        error, size = (output - 1).square().mean(), hidden.square().mean()
        if fault == "cut":
            size = model.second.weight.square().mean()
        if fault == "detached":
            size = size.detach()
        total = error if fault == "left_out" else error + weight * size
        return {"loss": total, "error": error, "size": size}

    return Objective("fit", {"default": list(model.parameters())}, loss, "error", terms=("error", "size"))


def reach_of(fault="", weight=0.5):
    torch.manual_seed(3)
    model = TwoLayers()
    return measure_reach(model, make_objective(model, fault, weight), BATCH)


def measure(context, **overrides):
    recorder = MetricRecorder()
    gradient_reach_probe().run(replace(context, **overrides), recorder)
    return recorder


def test_the_shares_of_two_terms_are_their_weighted_gradient_norms():
    reach = reach_of(weight=0.5)
    torch.manual_seed(3)
    model = TwoLayers()
    values = make_objective(model, weight=0.5).loss(BATCH)

    def norm(value):
        slopes = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
        return torch.cat([s.flatten() for s in slopes if s is not None]).norm().item()

    assert reach.terms["error"].share == pytest.approx(norm(values["error"]) / norm(values["loss"]), rel=1e-4)
    assert reach.terms["size"].share == pytest.approx(0.5 * norm(values["size"]) / norm(values["loss"]), rel=1e-4)
    assert reach.terms["size"].norms.keys() == {"first"}
    assert reach.rest < 1e-4
    assert reach.inert_terms == reach.unreached_modules == []


@pytest.mark.parametrize("fault", ["detached", "left_out"])
def test_a_planted_dead_term_is_named(fault):
    assert reach_of(fault).inert_terms == ["fit.size"]


def test_a_planted_term_of_weight_zero_is_named():
    assert reach_of(weight=0.0).inert_terms == ["fit.size"]


def test_a_planted_cut_leaves_a_module_without_gradient():
    reach = reach_of("cut")
    assert (reach.inert_terms, reach.unreached_modules) == ([], ["first"])


def test_a_part_of_the_loss_without_a_name_is_the_rest():
    torch.manual_seed(3)
    model = TwoLayers()
    reach = measure_reach(model, replace(make_objective(model), terms=("size",)), BATCH)
    assert 0.1 < reach.rest <= 1


def test_a_term_that_the_loss_lacks_is_an_error():
    model = TwoLayers()
    with pytest.raises(ValueError, match="objective fit must have the terms rhythm, got loss, error, size"):
        measure_reach(model, replace(make_objective(model), terms=("rhythm",)), BATCH)


def test_parameters_that_no_objective_trains_are_counted_by_name(trained_context):
    """The seed's discriminator of 9.6 million parameters had no loss."""
    model = nn.ModuleDict({"generator": TwoLayers(), "discriminator": TwoLayers()})
    objectives = lambda model: [make_objective(model["generator"])]  # noqa: E731
    recorder = measure(trained_context, model=model, objectives=objectives, train_batch=lambda count: BATCH)
    metric = recorder.metrics["untrained_params"]
    assert metric.value == sum(p.numel() for p in model["discriminator"].parameters()) == 21
    assert "discriminator.first.weight" in metric.description


@pytest.mark.parametrize(
    ("spec", "config", "terms"),
    [
        (GPT, GPTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24), 1),
        (MOE, MoEConfig(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.01, 0.001), 3),
        (MOE, MoEConfig(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "bias", 0.01, 0.001), 2),
    ],
    ids=["gpt", "moe", "moe_bias"],
)
def test_the_models_of_the_package_have_no_inert_term(trained_context, spec, config, terms):
    torch.manual_seed(0)
    model = spec.build(config, 29)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recorder = measure(
        trained_context,
        model=model,
        objectives=lambda model: spec.objectives(model, IGNORE),
        train_batch=lambda count: TokenBatch(torch.randint(29, (count, 8)), torch.randint(29, (count, 8))),
    )
    values = {name: metric.value for name, metric in recorder.metrics.items()}
    assert values["inert_terms"] == values["unreached_modules"] == values["untrained_params"] == 0
    assert values["num_terms"] == terms
    blocks = [row[0] for row in recorder.tables[0].rows]
    assert recorder.tables[0].name == "next_token.reach" and {"embed_tokens", "layers.0", "layers.1", "norm"} <= set(blocks)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_an_output_projection_of_zeros_hides_what_lies_behind_it(trained_context):
    """At the start the output projections are zero: the gradient does not reach queries, keys and values."""
    torch.manual_seed(0)
    model = GPT.build(GPTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24), 29)
    batch = TokenBatch(torch.randint(29, (2, 8)), torch.randint(29, (2, 8)))
    recorder = measure(trained_context, model=model, objectives=lambda m: GPT.objectives(m, IGNORE), train_batch=lambda n: batch)
    metric = recorder.metrics["unreached_modules"]
    assert metric.value > 0 and "layers.0.self_attn.q_proj" in metric.description
