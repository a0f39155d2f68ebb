"""What must give the same logits does, and a planted difference is seen."""

from dataclasses import replace

import pytest
import torch

from provenlm.evaluation.probes import parity
from provenlm.evaluation.probes.gradcheck import randomize_weights
from provenlm.models.common.hf_export import HFExport
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.models.gpt import spec as gpt
from provenlm.models.gpt.config import GPTConfig as Dense
from provenlm.models.moe import spec as moe
from provenlm.models.moe.config import MoEConfig as Mixed

LLAMA = Dense("llama", 16, 2, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.0)
GPT2 = replace(LLAMA, variant="gpt2", num_key_value_heads=2, rope_theta=None, tie_word_embeddings=False)
MIXED = Mixed(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "layerwise", 0.01, 0.001)
NETS = pytest.mark.parametrize(
    ("face", "shape"), [(gpt.SPEC, LLAMA), (gpt.SPEC, GPT2), (moe.SPEC, MIXED)], ids=["llama", "gpt2", "moe"]
)


@pytest.fixture
def subject(corpus, made):
    def build(face, shape):
        torch.manual_seed(0)
        model = randomize_weights(face.build(shape, 29)).eval()
        return made.subject(
            model,
            corpus,
            logits=face.logits,
            continued=face.continued,
            published=lambda weights: face.published(shape, 29, weights),
        )

    return build


def asked(ask, name, subject):
    return ask(parity.parity_probes(64)[f"equivalence.{name}"], subject)


@NETS
def test_our_weights_in_the_reference_give_our_logits(ask, subject, face, shape):
    figures = asked(ask, "reference", subject(face, shape))
    assert figures["largest_difference"] < 1e-4
    assert figures["same_choice"] == 1


def test_a_reference_with_another_angle_of_positions_is_seen_to_differ(ask, subject):
    right = subject(gpt.SPEC, LLAMA)
    other = replace(right, published=lambda weights: gpt.SPEC.to_hf(replace(LLAMA, rope_theta=100.0), 29, weights))
    assert asked(ask, "reference", other)["largest_difference"] > 1e-2


def test_an_export_with_two_matrices_swapped_is_seen_to_differ(ask, subject):
    right = subject(moe.SPEC, MIXED)

    def swapped(weights):
        found = right.published(weights)
        one, two = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
        return HFExport(found.config, {**found.tensors, one: found.tensors[two], two: found.tensors[one]})

    assert asked(ask, "reference", replace(right, published=swapped))["largest_difference"] > 1e-2


def test_an_export_that_lacks_a_tensor_is_an_error_that_names_it(ask, subject):
    right = subject(gpt.SPEC, LLAMA)

    def lacking(weights):
        found = right.published(weights)
        return HFExport(found.config, {name: t for name, t in found.tensors.items() if name != "model.norm.weight"})

    with pytest.raises(ValueError, match=r"not have the same tensors: model\.norm\.weight"):
        asked(ask, "reference", replace(right, published=lacking))


def test_a_net_without_a_counterpart_says_so_and_why(good):
    from provenlm.core.audit import MetricRecorder

    recorder = MetricRecorder()
    parity.parity_probes(64)["equivalence.reference"](good, recorder)
    figure = recorder.metrics["largest_difference"]
    assert (figure.value, figure.description) == ("not applicable", "nobody else has this net")


@NETS
def test_a_cache_gives_the_logits_of_none(ask, subject, face, shape):
    figures = asked(ask, "cache", subject(face, shape))
    assert figures["positions"] == 16
    assert figures["largest_difference"] < 1e-4


def test_a_cache_that_forgets_is_caught(ask, subject):
    right = subject(gpt.SPEC, LLAMA)

    def forgetful(model, tokens_BT, cache):
        said_BTV = gpt.SPEC.logits_with_cache(model, tokens_BT, cache)
        for past in cache._layers:
            past.kept[0][:, :, 0] = 0
        return said_BTV

    assert asked(ask, "cache", replace(right, logits_with_cache=forgetful))["largest_difference"] > 1e-3


def test_a_net_that_keeps_nothing_or_has_no_experts_is_not_asked(ask, good):
    assert asked(ask, "cache", good) == {"largest_difference": "not applicable"}
    assert asked(ask, "experts", good) == {"largest_difference": "not applicable"}


def test_the_fast_experts_say_what_the_loop_says(ask, subject):
    figures = asked(ask, "experts", subject(moe.SPEC, MIXED))
    assert figures["layers"] == 2
    assert figures["largest_difference"] < 1e-5


def test_experts_that_swap_their_weights_are_caught(ask, subject):
    class Swapped(Experts):
        def forward(self, states_ND, chosen_NK, weights_NK):
            return super().forward(states_ND, chosen_NK, weights_NK.flip(-1))

    right = subject(moe.SPEC, MIXED)
    right.model.layers[1].mlp.experts.__class__ = Swapped
    assert asked(ask, "experts", right)["largest_difference"] > 1e-2


def test_looking_leaves_no_hook_behind(ask, subject):
    right = subject(moe.SPEC, MIXED)
    asked(ask, "experts", right)
    assert not any(module._forward_hooks for module in right.model.modules())
