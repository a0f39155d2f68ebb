"""Test that every optional capability of a model may be missing, and that what needs it says so."""

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from provenlm.cli import plan
from provenlm.cli.export import export_files
from provenlm.core.errors import ConfigError
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import CAPABILITIES, ModelSpec, capabilities, require_capability, resolve_model
from provenlm.models.generation.logits_provider import CachedLogits, UncachedLogits, logits_provider
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.moe.spec import SPEC as MOE

TOY_SPEC = Path(__file__).parents[1] / "plugins/provenlm/models/toy_autoencoder/spec.py"


@pytest.fixture(scope="module")
def toy() -> Any:
    """Load the toy autoencoder of the contract tests."""
    module_spec = importlib.util.spec_from_file_location("toy_autoencoder_spec", TOY_SPEC)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def provider(spec: ModelSpec, use_cache: bool = True) -> Any:
    config = spec.config_type(max_position_embeddings=8)
    return logits_provider(spec, spec.build(config, 11), 8, {"pad": 0}, torch.device("cpu"), use_cache)


def test_capabilities_are_the_optional_fields_that_a_spec_sets(toy: Any) -> None:
    assert capabilities(MOE) == set(CAPABILITIES) - {"latent"}
    assert capabilities(GPT) == set(CAPABILITIES) - {"latent", "model_metrics"}
    assert capabilities(toy.SPEC) == {"latent"}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_spec_without_a_field_lacks_that_capability_only(capability: str) -> None:
    assert capabilities(replace(MOE, **{CAPABILITIES[capability]: None})) == capabilities(MOE) - {capability}


def test_a_missing_capability_is_named_with_those_offered(toy: Any) -> None:
    with pytest.raises(ConfigError, match="recipe x: must be a model with the capability kv_cache, got latent"):
        require_capability(toy.SPEC, "kv_cache", "recipe x")
    require_capability(toy.SPEC, "latent", "recipe x")


def test_generation_needs_next_token_logits(toy: Any) -> None:
    with pytest.raises(ConfigError, match="must be a model with the capability next_token_logits, got latent"):
        provider(toy.SPEC)


def test_generation_works_without_a_cache() -> None:
    assert isinstance(provider(GPT), CachedLogits)
    assert isinstance(provider(GPT, use_cache=False), UncachedLogits)
    assert isinstance(provider(replace(GPT, logits_with_cache=None)), UncachedLogits)


def test_export_needs_a_hugging_face_form(toy: Any) -> None:
    recipe_model: Any = SimpleNamespace(model=SimpleNamespace(spec=toy.SPEC))
    with pytest.raises(ConfigError, match="model to export: must be a model with the capability hf_export, got latent"):
        export_files(recipe_model)


def test_the_planner_needs_size_rules(toy: Any) -> None:
    with pytest.raises(ConfigError, match="--arch: must be a model with size rules, got toy_autoencoder"):
        plan.parse_sizes("8", "toy_autoencoder", 11, 32, toy.SPEC)


def test_an_empty_model_section_is_the_default_config_with_every_value_resolved() -> None:
    resolved = resolve_model({"arch": "moe"}, "recipes.x.model")
    assert resolved.model_config == MOE.config_type()
    assert resolved.section == asdict(MOE.config_type())
    assert resolve_model({"arch": "moe", "hidden_size": 64}, "here").model_config == MOE.config_type(hidden_size=64)


def test_a_model_section_without_arch_names_the_known_models() -> None:
    with pytest.raises(ConfigError, match=r"recipes\.x\.model: missing key 'arch'; known: gpt, grid_transformer, moe"):
        resolve_model({"hidden_size": 64}, "recipes.x.model")


def test_the_toy_counts_match_the_built_parameters(toy: Any) -> None:
    config = toy.SPEC.config_type(hidden_size=6, latent_size=3, max_position_embeddings=7)
    model = toy.SPEC.build(config, 11)
    assert toy.SPEC.num_params(config, 11)["total"] == sum(parameter.numel() for parameter in model.parameters())


def test_the_toy_objectives_share_no_parameter_and_cover_all(toy: Any) -> None:
    model = toy.SPEC.build(toy.SPEC.config_type(), 11)
    by_objective = [
        {id(parameter) for group in objective.param_groups.values() for parameter in group}
        for objective in toy.SPEC.objectives(model, IGNORE)
    ]
    assert by_objective[0].isdisjoint(by_objective[1])
    assert by_objective[0] | by_objective[1] == {id(parameter) for parameter in model.parameters()}


def test_each_toy_objective_has_gradients_for_its_own_parameters_only(toy: Any) -> None:
    model = toy.SPEC.build(toy.SPEC.config_type(), 11)
    ids_BT = torch.randint(1, 11, (2, 5), generator=torch.Generator().manual_seed(1))
    for objective in toy.SPEC.objectives(model, IGNORE):
        model.zero_grad()
        objective.loss(TokenBatch(ids_BT, ids_BT))["loss"].backward()
        with_gradient = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
        assert with_gradient == {id(parameter) for group in objective.param_groups.values() for parameter in group}
