"""What must give the same logits does, and a planted difference is seen."""

from dataclasses import replace

import pytest
import torch

from provenlm.evaluation.probes import parity
from provenlm.evaluation.probes.gradcheck import randomize_weights
from provenlm.models.common.hf_export import HFExport
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.models.gpt import spec as gpt
from provenlm.models.gpt.config import GPTConfig as DenseConfig
from provenlm.models.moe import spec as moe
from provenlm.models.moe.config import MoEConfig as MoeConfig

LLAMA = DenseConfig("llama", 16, 2, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.0)
GPT2 = replace(LLAMA, variant="gpt2", num_key_value_heads=2, rope_theta=None, tie_word_embeddings=False)
MOE = MoeConfig(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.01, 0.001)
EACH_MODEL = pytest.mark.parametrize(
    ("spec", "config"), [(gpt.SPEC, LLAMA), (gpt.SPEC, GPT2), (moe.SPEC, MOE)], ids=["llama", "gpt2", "moe"]
)


@pytest.fixture
def context(corpus, factory):
    def build(spec, config):
        torch.manual_seed(0)
        model = randomize_weights(spec.build(config, 29)).eval()
        return factory.context(
            model,
            corpus,
            logits=spec.logits,
            logits_with_cache=spec.logits_with_cache,
            to_hf=lambda weights: spec.to_hf(config, 29, weights),
        )

    return build


def run_parity(run_probe, name, context):
    return run_probe(parity.parity_probes(64)[f"parity.{name}"], context)


@EACH_MODEL
def test_the_exported_weights_give_the_same_logits_in_transformers(run_probe, context, spec, config):
    metrics = run_parity(run_probe, "hf", context(spec, config))
    assert metrics["max_abs_diff"] < 1e-4
    assert metrics["top1_agreement"] == 1


def test_a_reference_with_another_rope_theta_differs(run_probe, context):
    context_without_fault = context(gpt.SPEC, LLAMA)
    faulty = replace(context_without_fault, to_hf=lambda weights: gpt.SPEC.to_hf(replace(LLAMA, rope_theta=100.0), 29, weights))
    assert run_parity(run_probe, "hf", faulty)["max_abs_diff"] > 1e-2


def test_an_export_with_two_swapped_matrices_differs(run_probe, context):
    context_without_fault = context(moe.SPEC, MOE)

    def swap_layers(weights):
        exported = context_without_fault.to_hf(weights)
        first, second = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
        return HFExport(
            exported.config, {**exported.state_dict, first: exported.state_dict[second], second: exported.state_dict[first]}
        )

    assert run_parity(run_probe, "hf", replace(context_without_fault, to_hf=swap_layers))["max_abs_diff"] > 1e-2


def test_an_export_that_lacks_a_tensor_is_an_error_that_names_it(run_probe, context):
    context_without_fault = context(gpt.SPEC, LLAMA)

    def drop_norm(weights):
        exported = context_without_fault.to_hf(weights)
        return HFExport(exported.config, {name: t for name, t in exported.state_dict.items() if name != "model.norm.weight"})

    with pytest.raises(ValueError, match=r"not have the same tensors: model\.norm\.weight"):
        run_parity(run_probe, "hf", replace(context_without_fault, to_hf=drop_norm))


@EACH_MODEL
def test_a_cache_gives_the_same_logits(run_probe, context, spec, config):
    metrics = run_parity(run_probe, "kv_cache", context(spec, config))
    assert metrics["num_positions"] == 16
    assert metrics["max_abs_diff"] < 1e-4


def test_a_cache_that_loses_a_key_is_caught(run_probe, context):
    context_without_fault = context(gpt.SPEC, LLAMA)

    def forget_first_key(model, tokens_BT, cache):
        logits_BTV = gpt.SPEC.logits_with_cache(model, tokens_BT, cache)
        for layer_cache in cache._layers:
            layer_cache.key_value[0][:, :, 0] = 0
        return logits_BTV

    assert (
        run_parity(run_probe, "kv_cache", replace(context_without_fault, logits_with_cache=forget_first_key))["max_abs_diff"] > 1e-3
    )


def test_grouped_experts_equal_the_loop_over_experts(run_probe, context):
    metrics = run_parity(run_probe, "experts", context(moe.SPEC, MOE))
    assert metrics["num_layers"] == 2
    assert metrics["max_relative_diff"] < 1e-5


def test_experts_that_swap_their_weights_are_caught(run_probe, context):
    class Swapped(Experts):
        def forward(self, states_ND, chosen_NK, weights_NK):
            return super().forward(states_ND, chosen_NK, weights_NK.flip(-1))

    context_without_fault = context(moe.SPEC, MOE)
    context_without_fault.model.layers[1].mlp.experts.__class__ = Swapped
    assert run_parity(run_probe, "experts", context_without_fault)["max_relative_diff"] > 1e-2


def test_no_forward_hook_remains(run_probe, context):
    context_without_fault = context(moe.SPEC, MOE)
    run_parity(run_probe, "experts", context_without_fault)
    assert not any(module._forward_hooks for module in context_without_fault.model.modules())
