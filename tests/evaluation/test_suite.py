"""Test the standard probes: which there are, what they need, and how their settings scale with the recipe."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from provenlm.core.errors import ConfigError
from provenlm.evaluation import suite
from provenlm.evaluation.probe import CONDITIONS
from provenlm.evaluation.sweep import ModelVariants, SweepConfig
from provenlm.models.common.spec import CAPABILITIES
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC as MOE

CONFIG = suite.ValidateConfig()
CASE = SimpleNamespace(config=SimpleNamespace(compile=False))
CURVE = [(float(step), 2.0, 2.0) for step in range(5)]
VARIANTS = ModelVariants((1, 0.5), lambda seed: None, [], 30)
LLAMA = GPTConfig("llama", 16, 2, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.0)
MIXTRAL = MoEConfig(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.01, 0.001)


def conditions_of(context, config=CONFIG, case=CASE, curve=CURVE, variants=VARIANTS, has_base_model=False):
    return suite.find_conditions(context, config, case, curve, variants, has_base_model)


def context_of(factory, corpus, spec, config):
    torch.manual_seed(0)
    return factory.context(spec.build(config, 29), corpus, to_hf=lambda state_dict: spec.to_hf(config, 29, state_dict))


def test_every_need_of_a_standard_probe_is_a_capability_or_a_condition():
    probes = suite.standard_probes(CONFIG, None, {}, [], CASE, CURVE)
    needs = frozenset().union(*(probe.needs for probe in probes.values()))
    assert needs <= {*CAPABILITIES, *CONDITIONS}
    assert needs >= {"next_token_logits", "kv_cache", "hf_export", "model_metrics", "blocks"}


def test_a_recipe_cannot_leave_out_a_standard_probe():
    """The probes are the same whatever the recipe configures."""
    other = suite.ValidateConfig(threads=1, count_only_models={"x": suite.CountOnlyConfig(9, {})})
    assert list(suite.standard_probes(CONFIG, None, {}, [], CASE, CURVE)) == list(
        suite.standard_probes(other, None, {}, [], CASE, [])
    )


def test_conditions_of_a_llama_are_those_of_a_decoder_without_experts(factory, corpus):
    conditions = conditions_of(context_of(factory, corpus, GPT, LLAMA))
    assert conditions == {
        **dict.fromkeys(CONDITIONS, True),
        "train.compile": False,
        "expert_layers": False,
        "scaling_law": False,
        "count_only_models": False,
        "sweep_seeds": False,
        "sweep_checkpoints": False,
    }


def test_a_mixture_has_expert_layers_and_a_router_bias_no_hf_format(factory, corpus):
    assert conditions_of(context_of(factory, corpus, MOE, MIXTRAL))["expert_layers"] is True
    biased = replace(MIXTRAL, load_balancing="bias")
    assert "bias" in conditions_of(context_of(factory, corpus, MOE, biased))["hf_format"]


def test_a_model_of_unknown_layers_and_format_has_neither(trained_context):
    conditions = conditions_of(trained_context)
    assert not conditions["attention_layers"] and not conditions["decoder_blocks"] and not conditions["hf_format"]


def test_conditions_follow_the_recipe_and_its_data(factory, trained_context):
    without_val = replace(trained_context, tokens=factory.dataset(factory.documents(3, 1), []))
    config = replace(CONFIG, count_only_models={"x": suite.CountOnlyConfig(9, {})}, sweeps=SweepConfig((2,)))
    case = SimpleNamespace(config=SimpleNamespace(compile=True))
    variants = replace(VARIANTS, checkpoints=[(10, lambda: trained_context)])
    conditions = conditions_of(without_val, config, case, CURVE[:4], variants, has_base_model=True)
    assert not conditions["validation_split"] and not conditions["generation_prompts"]
    assert not conditions["val_history"] and not conditions["random_init"]
    assert conditions["train.compile"] and conditions["count_only_models"]
    assert conditions["sweep_seeds"] and conditions["sweep_checkpoints"]


def test_another_error_of_the_export_is_not_taken_for_a_missing_format(trained_context):
    def broken(state_dict):
        raise ValueError("a fault of the export")

    with pytest.raises(ValueError, match="a fault of the export"):
        conditions_of(replace(trained_context, to_hf=broken))

    def unsupported(state_dict):
        raise ConfigError("no such format")

    assert conditions_of(replace(trained_context, to_hf=unsupported))["hf_format"] == "no such format"


def test_defaults_scale_with_the_training_sequence_length():
    config = suite.scale_to_recipe(CONFIG, {}, 256)
    assert (config.generation.prompt_tokens, config.generation.max_new_tokens) == (32, 64)
    assert config.throughput.seq_lens == (32, 128, 256)
    short = suite.scale_to_recipe(CONFIG, {}, 4)
    assert (short.generation.prompt_tokens, short.generation.max_new_tokens, short.throughput.seq_lens) == (1, 1, (1, 2, 4))


def test_a_large_decoder_gets_a_small_model_and_a_small_one_stays():
    large = {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 384,
    }
    assert suite.scale_to_recipe(CONFIG, large, 8).small_model_overrides == {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    heads = {**large, "num_attention_heads": 12, "num_key_value_heads": 6}
    assert suite.scale_to_recipe(CONFIG, heads, 8).small_model_overrides["num_key_value_heads"] == 4
    assert suite.scale_to_recipe(CONFIG, {**large, "hidden_size": 32}, 8).small_model_overrides == {}
    assert suite.scale_to_recipe(CONFIG, {"width": 500}, 8).small_model_overrides == {}
    own = suite.ValidateConfig(small_model_overrides={"hidden_size": 8})
    assert suite.scale_to_recipe(own, large, 8).small_model_overrides == {"hidden_size": 8}
