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
from provenlm.evaluation.probes.gradcheck import gradcheck_probe
from provenlm.evaluation.probes.gradcheck_ops import OpCase, all_ops, check_op, gradcheck_ops_probe, tiny_decoder
from provenlm.models.common.layers.attention import Attention


class Faked(nn.Module):
    """An attention whose gradient is not its own. `scaled`: 1e-4 of it. `detached`: none. `mixed`: seed 001's own trick, a forward that
    is computed outside of autograd, with a ten-thousandth of queries, keys and values added so that something flows."""

    def __init__(self, real: Attention, fault: str) -> None:
        super().__init__()
        self.real, self.fault, self.head = real, fault, real.head_dim

    def forward(self, hidden_BTD, *rest):
        said_BTD = self.real(hidden_BTD, *rest)
        if self.fault == "scaled":
            return said_BTD.detach() + 1e-4 * (said_BTD - said_BTD.detach())
        if self.fault == "detached":
            return said_BTD.detach()
        straight_BTD = self.real.o_proj(sum(p(hidden_BTD) for p in (self.real.q_proj, self.real.k_proj, self.real.v_proj)) / 3)
        return 0.9999 * said_BTD.detach() + 0.0001 * straight_BTD


def small(fault: str = "", style: str = "gpt2"):
    def build(vocabulary: int) -> nn.Module:
        model = tiny_decoder(style, vocabulary, 9)
        if fault:
            model.layers[0].self_attn = Faked(model.layers[0].self_attn, fault)
        return model

    return build


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_a_right_net_agrees_in_every_tensor(good, ask, style):
    figures = ask(gradcheck_probe(), replace(good, small=small(style=style)))
    assert figures["next_token.relative_error"] < 1e-7
    assert figures["next_token.largest_relative_error"] < 1e-6
    assert figures["next_token.smallest_cosine"] > 1 - 1e-9
    assert figures["next_token.elements"] > 24 * figures["next_token.tensors"] / 2


@pytest.mark.parametrize("fault", ["scaled", "detached", "mixed"])
def test_a_path_whose_gradient_is_not_its_own_is_caught(good, ask, fault):
    figures = ask(gradcheck_probe(), replace(good, small=small(fault)))
    assert figures["next_token.largest_relative_error"] > 0.9


def test_the_figure_names_the_tensor_that_is_worst(good):
    from provenlm.core.audit import MetricRecorder

    recorder = MetricRecorder()
    gradcheck_probe()(replace(good, small=small("detached")), recorder)
    assert "layers.0." in recorder.metrics["next_token.largest_relative_error"].description


def test_a_gradient_that_points_elsewhere_is_seen_by_its_cosine(good, ask):
    assert ask(gradcheck_probe(), replace(good, small=small("mixed")))["next_token.smallest_cosine"] < 0.9


def test_the_bias_of_keys_moves_nothing_and_is_counted_not_compared(good, ask):
    assert ask(gradcheck_probe(), replace(good, small=small()))["next_token.flat"] == 2


def test_every_objective_is_compared(good, ask):
    def two(model, inputs_BT, targets_BT):
        logits_BTV = model(inputs_BT)
        return {"one": F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten()), "two": logits_BTV.square().mean()}

    figures = ask(gradcheck_probe(), replace(good, losses=two))
    assert max(figures["one.largest_relative_error"], figures["two.largest_relative_error"]) < 1e-6


def test_slopes_are_those_worked_out_by_hand():
    place = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    (slope,) = compare_gradients(lambda: place[0] ** 2 * place[1], {"x": place}, 1).comparisons
    assert sorted(slope.finite_differences.tolist()) == pytest.approx([9, 24], rel=1e-8)
    assert place.tolist() == [3, 4]


def test_a_large_tensor_is_moved_whole_along_a_direction_too():
    """Only element 0 has a wrong gradient; whichever elements are drawn, the direction sees it."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, slope):
            gradient = torch.ones(5000, dtype=torch.float64)
            gradient[0] = 1000.0
            return slope * gradient

    place = torch.randn(5000, dtype=torch.float64, requires_grad=True)
    (slope,) = compare_gradients(lambda: Wrong.apply(place), {"x": place}, 3).comparisons
    assert (slope.num_elements, slope.num_checked) == (5000, 24)
    assert slope.relative_error > 0.1


def test_float32_is_refused_and_so_is_a_value_that_nothing_moves():
    with pytest.raises(ValueError, match="float64"):
        compare_gradients(lambda: torch.zeros(()), {"x": torch.zeros(2, requires_grad=True)}, 1)
    still = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="no tensor moves"):
        compare_gradients(lambda: (still * 0).sum(), {"x": still}, 1)


def test_every_operation_of_the_nets_agrees(good, ask):
    figures = ask(gradcheck_ops_probe, good)
    assert figures["largest_relative_error"] < 1e-6
    assert figures["smallest_cosine"] > 1 - 1e-9
    named = {name.removesuffix(".relative_error") for name in figures if name.endswith(".relative_error")}
    assert named == {
        *("reshape", "matmul_2d", "matmul_batched", "embedding", "layer_norm", "rms_norm", "add", "subtract", "multiply", "divide"),
        *("gelu", "swiglu", "attention", "rotary", "router", "experts", "variational", "gpt", "llama"),
    }


def test_an_operation_with_a_wrong_backward_pass_is_caught(good, ask, monkeypatch):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return slope / 2

    real = all_ops()["swiglu"]
    wrong = OpCase(real.tensors, lambda tensors: Halved.apply(real.forward(tensors)))
    assert check_op(wrong, 1).relative_error == pytest.approx(0.5)
    monkeypatch.setattr(ops, "every", lambda: {"swiglu": wrong})
    assert ask(gradcheck_ops_probe, good)["largest_relative_error"] == pytest.approx(0.5)


def test_a_detached_router_is_caught():
    real = all_ops()["experts"]

    def without(tensors):
        return real.forward({**tensors, "router.weight": tensors["router.weight"].detach()})

    worst = check_op(OpCase(real.tensors, without), 1).worst
    assert (worst.name, worst.relative_error, worst.cosine) == ("router.weight", 1.0, 0.0)
    assert math.isclose(float(worst.autograd.norm()), 0.0)


def test_a_latent_that_is_cut_off_from_its_variance_is_caught():
    """The trick that lets the noise be drawn outside, forgotten: the decoder learns, and the encoder's variance does not."""
    real = all_ops()["variational"]
    tensors = {name: tensor.double() for name, tensor in real.tensors.items()}

    def cut(found):
        half = torch.cat([found["encoder.weight"][:3], found["encoder.weight"][3:].detach()])
        return real.forward({**found, "encoder.weight": half})

    worst = check_op(OpCase(tensors, cut), 1).worst
    assert worst.name == "encoder.weight" and worst.relative_error > 0.1


def test_the_divergence_of_a_latent_is_that_of_torchs_distributions():
    real = all_ops()["variational"]
    tensors = {name: tensor.double() for name, tensor in real.tensors.items()}
    mean, log_variance = F.linear(tensors["states"], tensors["encoder.weight"], tensors["encoder.bias"]).chunk(2, -1)
    given, standard = Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(real.forward(tensors)[-len(mean) :], kl_divergence(given, standard).sum(-1))
