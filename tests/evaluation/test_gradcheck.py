"""Finite differences against autograd: right nets agree to rounding, planted faults do not."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from provenlm.evaluation.probes import gradcheck_ops as ops
from provenlm.evaluation.probes.finite_differences import compare_gradients
from provenlm.evaluation.probes.gradcheck import copy_training_state, gradcheck_probe
from provenlm.evaluation.probes.gradcheck_ops import OpCase, all_ops, check_op, gradcheck_ops_probe, tiny_decoder
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.objective import TokenBatch


class FaultyAttention(nn.Module):
    """Return an attention with a wrong gradient.

    `scaled`: 1e-4 of the gradient. `detached`: none. `mixed`: the forward pass runs outside of autograd, with a ten-thousandth of
    queries, keys and values added, so that some gradient flows.
    """

    def __init__(self, correct_op: Attention, fault: str) -> None:
        super().__init__()
        self.real, self.fault, self.head = correct_op, fault, correct_op.head_dim

    def forward(self, hidden_BTD, *rest):
        output_BTD = self.real(hidden_BTD, *rest)
        if self.fault == "scaled":
            return output_BTD.detach() + 1e-4 * (output_BTD - output_BTD.detach())
        if self.fault == "detached":
            return output_BTD.detach()
        bypass_BTD = self.real.o_proj(sum(p(hidden_BTD) for p in (self.real.q_proj, self.real.k_proj, self.real.v_proj)) / 3)
        return 0.9999 * output_BTD.detach() + 0.0001 * bypass_BTD


def build_with_fault(fault: str = "", style: str = "gpt2"):
    def build(vocabulary: int) -> nn.Module:
        model = tiny_decoder(style, vocabulary, 9)
        if fault:
            model.layers[0].self_attn = FaultyAttention(model.layers[0].self_attn, fault)
        return model

    return build


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_a_correct_model_agrees_in_every_tensor(trained_context, run_probe, style):
    metrics = run_probe(gradcheck_probe(), replace(trained_context, build_small=build_with_fault(style=style)))
    assert metrics["next_token.relative_error"] < 1e-7
    assert metrics["next_token.max_relative_error"] < 1e-6
    assert metrics["next_token.min_cosine"] > 1 - 1e-9
    assert metrics["next_token.num_elements"] > 24 * metrics["next_token.num_tensors"] / 2


@pytest.mark.parametrize("fault", ["scaled", "detached", "mixed"])
def test_a_path_whose_gradient_is_not_its_own_is_caught(trained_context, run_probe, fault):
    metrics = run_probe(gradcheck_probe(), replace(trained_context, build_small=build_with_fault(fault)))
    assert metrics["next_token.max_relative_error"] > 0.9


def test_the_metric_names_the_worst_tensor(trained_context):
    from provenlm.core.audit import MetricRecorder

    recorder = MetricRecorder()
    gradcheck_probe().run(replace(trained_context, build_small=build_with_fault("detached")), recorder)
    assert "layers.0." in recorder.metrics["next_token.max_relative_error"].description


def test_a_gradient_that_points_elsewhere_is_seen_by_its_cosine(trained_context, run_probe):
    assert (
        run_probe(gradcheck_probe(), replace(trained_context, build_small=build_with_fault("mixed")))["next_token.min_cosine"] < 0.9
    )


def test_the_bias_of_keys_moves_nothing_and_is_counted_not_compared(trained_context, run_probe):
    assert (
        run_probe(gradcheck_probe(), replace(trained_context, build_small=build_with_fault()))["next_token.zero_gradient_tensors"]
        == 2
    )


def test_every_objective_is_compared(trained_context, run_probe):
    def two_objectives(model, batch):
        logits_BTV = model(batch.inputs_BT)
        return {"one": F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten()), "two": logits_BTV.square().mean()}

    metrics = run_probe(gradcheck_probe(), replace(trained_context, losses=two_objectives))
    assert max(metrics["one.max_relative_error"], metrics["two.max_relative_error"]) < 1e-6


def test_an_objective_is_checked_on_the_parameters_that_it_trains(trained_context, run_probe):
    """The loss also depends on the embedding, outside of autograd: that counts only if the objective trains it."""

    def loss(model, batch):
        with torch.no_grad():
            embedding_norm = model.embedding.weight.square().sum()
        return {"head": model.head.weight.square().sum() * embedding_norm}

    context = replace(trained_context, losses=loss, objective_params=lambda model: {"head": [model.head.weight]})
    assert run_probe(gradcheck_probe(), context)["max_relative_error"] < 1e-6
    everything = replace(context, objective_params=lambda model: {"head": list(model.parameters())})
    assert run_probe(gradcheck_probe(), everything)["max_relative_error"] == 1


def test_a_model_with_batches_of_its_domain_is_checked_on_those(trained_context, run_probe):
    batch = TokenBatch(torch.tensor([[1, 3, 4]]), torch.tensor([[3, 4, 2]]))
    context = replace(trained_context, token_batches=False, train_batch=lambda num_sequences: batch)
    assert run_probe(gradcheck_probe(), context)["next_token.max_relative_error"] < 1e-6


class LateModel(nn.Module):
    """Have an objective that is off before the third update."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale_T", torch.zeros(4))

    def loss(self, batch):
        return {"late": self.weight.square().sum() * float(self.num_updates >= 3)}


def late_context(context, num_updates):
    trained = LateModel()
    trained.num_updates.fill_(num_updates)
    return replace(
        context, model=trained, build_small=lambda vocab_size: LateModel(), losses=lambda model, batch: model.loss(batch)
    )


def test_an_objective_that_starts_late_is_checked_in_the_state_after_training(trained_context, run_probe):
    metrics = run_probe(gradcheck_probe(), late_context(trained_context, 3))
    assert metrics["late.num_elements"] == 4 and metrics["late.max_relative_error"] < 1e-6


def test_an_objective_that_never_starts_is_an_error(trained_context, run_probe):
    with pytest.raises(ValueError, match="no tensor has a gradient"):
        run_probe(gradcheck_probe(), late_context(trained_context, 2))


def test_only_scalar_buffers_are_copied():
    source, target = LateModel(), LateModel()
    source.num_updates.fill_(7)
    source.scale_T.fill_(5)
    with torch.no_grad():
        source.weight.fill_(9)
    copy_training_state(source, target)
    assert (int(target.num_updates), float(target.scale_T.sum()), float(target.weight.detach().sum())) == (7, 0, 4)


class StoppedModel(nn.Module):
    """Multiply weights by themselves without gradient, by a declared stop or by a fault."""

    def __init__(self, declared):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.stop = nn.Identity()
        self.stop.forward = lambda tensor: tensor.detach()
        self.stop.stops_gradient = declared

    def loss(self, batch):
        return {"product": (self.weight**2 * self.stop(self.weight)).sum()}


@pytest.mark.parametrize(("declared", "error"), [(True, 0.0), (False, 1 / 3)])
def test_a_declared_stop_is_held_constant_and_a_planted_one_is_caught(trained_context, run_probe, declared, error):
    """The gradient is 2w² where the stop is declared, and a finite difference without it gives 3w²."""
    context = replace(
        trained_context, build_small=lambda vocab_size: StoppedModel(declared), losses=lambda model, batch: model.loss(batch)
    )
    metrics = run_probe(gradcheck_probe(), context)
    assert metrics["product.max_relative_error"] == pytest.approx(error, abs=1e-6)
    assert metrics["num_stops"] == declared


def test_gradients_equal_those_computed_by_hand():
    point = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    (slope,) = compare_gradients(lambda: point[0] ** 2 * point[1], {"x": point}, 1).comparisons
    assert sorted(slope.finite_differences.tolist()) == pytest.approx([9, 24], rel=1e-8)
    assert point.tolist() == [3, 4]


def test_a_large_tensor_is_moved_whole_along_a_direction_too():
    """Only element 0 has a wrong gradient: the random direction includes it whatever elements are sampled."""

    class WrongBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, slope):
            gradient = torch.ones(5000, dtype=torch.float64)
            gradient[0] = 1000.0
            return slope * gradient

    point = torch.randn(5000, dtype=torch.float64, requires_grad=True)
    (slope,) = compare_gradients(lambda: WrongBackward.apply(point), {"x": point}, 3).comparisons
    assert (slope.num_elements, slope.num_checked) == (5000, 24)
    assert slope.relative_error > 0.1


def test_float32_is_refused_and_so_is_a_value_that_nothing_moves():
    with pytest.raises(ValueError, match="float64"):
        compare_gradients(lambda: torch.zeros(()), {"x": torch.zeros(2, requires_grad=True)}, 1)
    constant = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="no tensor has a gradient"):
        compare_gradients(lambda: (constant * 0).sum(), {"x": constant}, 1)


def test_every_operation_of_the_models_agrees(trained_context, run_probe):
    metrics = run_probe(gradcheck_ops_probe(), trained_context)
    assert metrics["max_relative_error"] < 1e-6
    assert metrics["min_cosine"] > 1 - 1e-9
    op_names = {name.removesuffix(".relative_error") for name in metrics if name.endswith(".relative_error")}
    assert op_names == {
        *("reshape", "matmul_2d", "matmul_batched", "embedding", "layer_norm", "rms_norm", "add", "subtract", "multiply", "divide"),
        *("gelu", "swiglu", "attention", "rotary", "router", "experts", "variational", "gpt", "llama"),
    }


def test_an_operation_with_a_wrong_backward_pass_is_caught(trained_context, run_probe, monkeypatch):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return slope / 2

    correct_op = all_ops()["swiglu"]
    faulty_op = OpCase(correct_op.tensors, lambda tensors: Halved.apply(correct_op.forward(tensors)))
    assert check_op(faulty_op, 1).relative_error == pytest.approx(0.5)
    monkeypatch.setattr(ops, "all_ops", lambda: {"swiglu": faulty_op})
    assert run_probe(gradcheck_ops_probe(), trained_context)["max_relative_error"] == pytest.approx(0.5)


def test_a_detached_router_is_caught():
    correct_op = all_ops()["experts"]

    def detach_router(tensors):
        return correct_op.forward({**tensors, "router.weight": tensors["router.weight"].detach()})

    worst = check_op(OpCase(correct_op.tensors, detach_router), 1).worst
    assert (worst.name, worst.relative_error, worst.cosine) == ("router.weight", 1.0, 0.0)
    assert math.isclose(float(worst.autograd.norm()), 0.0)


def test_a_latent_that_is_cut_off_from_its_variance_is_caught():
    """Without reparameterisation the decoder has a gradient and the variance of the encoder has none."""
    correct_op = all_ops()["variational"]
    tensors = {name: tensor.double() for name, tensor in correct_op.tensors.items()}

    def detach_variance(tensors):
        half = torch.cat([tensors["encoder.weight"][:3], tensors["encoder.weight"][3:].detach()])
        return correct_op.forward({**tensors, "encoder.weight": half})

    worst = check_op(OpCase(tensors, detach_variance), 1).worst
    assert worst.name == "encoder.weight" and worst.relative_error > 0.1


def test_the_divergence_of_a_latent_is_that_of_torchs_distributions():
    correct_op = all_ops()["variational"]
    tensors = {name: tensor.double() for name, tensor in correct_op.tensors.items()}
    mean, log_variance = F.linear(tensors["states"], tensors["encoder.weight"], tensors["encoder.bias"]).chunk(2, -1)
    posterior, prior = Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(correct_op.forward(tensors)[-len(mean) :], kl_divergence(posterior, prior).sum(-1))
