"""Test that planned models have the planned size and follow the cited rules."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from provenlm.core import config, registry
from provenlm.models.common.spec import ModelSpec, SizeRules
from provenlm.scaling import model_sizing


def parse_model(section: Mapping[str, Any]) -> Any:
    spec = registry.load_model(section["arch"], ModelSpec)
    return config.parse_config(spec.config_type, {k: v for k, v in section.items() if k != "arch"}, "test")


def count(section: Mapping[str, Any], vocab_size: int) -> Mapping[str, int]:
    return registry.load_model(section["arch"], ModelSpec).num_params(parse_model(section), vocab_size)


def rules(arch: str) -> SizeRules:
    size_rules = registry.load_model(arch, ModelSpec).size_rules
    assert size_rules is not None
    return size_rules


def count_built(section: Mapping[str, Any], vocab_size: int) -> int:
    with torch.device("meta"):
        model = registry.load_model(section["arch"], ModelSpec).build(parse_model(section), vocab_size)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("low", "high", "arch"),
    [(180e6, 220e6, "moe"), (180e6, 220e6, "gpt"), (3e6, 4e6, "moe"), (20e6, 25e6, "gpt")],
)
def test_every_planned_model_lies_in_the_parameter_range(low: float, high: float, arch: str) -> None:
    sizes = model_sizing.sizes_in_range(low, high, arch, rules(arch), 8192, 256, count)
    assert sizes
    for size in sizes:
        assert low <= count_built(size.model, 8192) == size.total_params <= high


def test_a_parameter_range_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no moe with vocab_size 32,000 has 10 to 20 parameters"):
        model_sizing.sizes_in_range(10, 20, "moe", rules("moe"), 32_000, 256, count)


def test_a_reversed_parameter_range_is_refused() -> None:
    with pytest.raises(ValueError, match="the parameter range must be 0 < minimum <= maximum, got 2,000,000 to 1,000,000"):
        model_sizing.sizes_in_range(2e6, 1e6, "moe", rules("moe"), 4096, 256, count)


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        model_sizing.size_for_depth(0, "moe", rules("moe"), 4096, 256, count)


@pytest.mark.parametrize("arch", ["moe", "gpt"])
def test_every_depth_gives_a_valid_model_larger_than_the_previous_one(arch: str) -> None:
    totals = [model_sizing.size_for_depth(depth, arch, rules(arch), 4096, 256, count).total_params for depth in range(1, 40)]
    assert totals == sorted(set(totals))


def test_the_size_for_depth_four_worked_out_by_hand() -> None:
    size = model_sizing.size_for_depth(4, "moe", rules("moe"), 4096, 256, count)
    assert (
        size.model["hidden_size"],
        size.model["num_attention_heads"],
        size.model["num_key_value_heads"],
        size.model["intermediate_size"],
    ) == (256, 4, 1, 512)
    attention, expert, router = 2 * 256 * 256 + 2 * 256 * 64, 3 * 256 * 512, 8 * 256
    around = 4096 * 256 + (2 * 4 + 1) * 256
    assert size.total_params == around + 4 * (attention + 8 * expert + router)
    assert size.active_params == around + 4 * (attention + 2 * expert + router)
    assert size.train_tokens == 12 * size.active_params
    assert size.max_steps * size.batch_tokens >= size.train_tokens > (size.max_steps - 1) * size.batch_tokens


def test_the_dense_ffn_width_is_eight_thirds_of_the_hidden_size() -> None:
    section = model_sizing.size_for_depth(12, "gpt", rules("gpt"), 4096, 256, count).model
    assert (section["hidden_size"], section["intermediate_size"]) == (768, 2048)


def test_the_optimal_batch_follows_the_cited_power_law() -> None:
    assert model_sizing.optimal_batch_tokens(1_320_000_000) == 2**19  # the reference itself
    assert model_sizing.optimal_batch_tokens(1_320_000_000 * 37) == 2**21  # 37 ** 0.383 = 3.99
    assert model_sizing.optimal_batch_tokens(1) == 1024


def test_adamw_rates_fall_with_the_root_of_the_width_and_muon_stays() -> None:
    assert model_sizing.scaled_lrs(192) == {"embedding": 0.012, "matrix": 0.015, "default": 0.01}
    assert model_sizing.scaled_lrs(768) == {"embedding": 0.006, "matrix": 0.015, "default": 0.005}
