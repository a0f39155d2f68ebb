"""Sizes: what is planned is truly that large, and what follows from a size follows the rules it names."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from provenlm.core import config, registry
from provenlm.models.common.spec import ModelSpec
from provenlm.scaling import model_sizing
from provenlm.scaling.model_sizing import ModelArch


def settings_of(net: Mapping[str, Any]) -> Any:
    face = registry.load_model(net["kind"], ModelSpec)
    return config.parse_config(face.config_type, {k: v for k, v in net.items() if k != "kind"}, "test")


def count(net: Mapping[str, Any], vocabulary: int) -> Mapping[str, int]:
    return registry.load_model(net["kind"], ModelSpec).num_params(settings_of(net), vocabulary)


def built(net: Mapping[str, Any], vocabulary: int) -> int:
    with torch.device("meta"):
        model = registry.load_model(net["kind"], ModelSpec).build(settings_of(net), vocabulary)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(180e6, 220e6, "moe"), (180e6, 220e6, "gpt"), (3e6, 4e6, "moe"), (20e6, 25e6, "gpt")],
)
def test_every_shape_planned_for_a_range_lies_inside_it_when_built(low: float, high: float, kind: ModelArch) -> None:
    sizes = model_sizing.sizes_in_range(low, high, kind, 8192, 256, count)
    assert sizes
    for size in sizes:
        assert low <= built(size.model, 8192) == size.total_params <= high


def test_a_range_without_a_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="no moe with a vocabulary of 32,000 has 10 to 20 parameters"):
        model_sizing.sizes_in_range(10, 20, "moe", 32_000, 256, count)


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="is no range of parameters"):
        model_sizing.sizes_in_range(2e6, 1e6, "moe", 4096, 256, count)


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="depth is 0"):
        model_sizing.size_for_depth(0, "moe", 4096, 256, count)


@pytest.mark.parametrize("kind", ["moe", "gpt"])
def test_every_depth_gives_settings_that_the_net_takes_and_more_parameters_than_the_last(kind: ModelArch) -> None:
    totals = [model_sizing.size_for_depth(depth, kind, 4096, 256, count).total_params for depth in range(1, 40)]
    assert totals == sorted(set(totals))


def test_the_dial_at_four_by_hand() -> None:
    size = model_sizing.size_for_depth(4, "moe", 4096, 256, count)
    assert (size.model["hidden"], size.model["heads"], size.model["kv_heads"], size.model["expert_hidden"]) == (256, 4, 1, 512)
    attention, expert, router = 2 * 256 * 256 + 2 * 256 * 64, 3 * 256 * 512, 8 * 256
    around = 4096 * 256 + (2 * 4 + 1) * 256
    assert size.total_params == around + 4 * (attention + 8 * expert + router)
    assert size.active_params == around + 4 * (attention + 2 * expert + router)
    assert size.train_tokens == 12 * size.active_params
    assert size.max_steps * size.batch_tokens >= size.train_tokens > (size.max_steps - 1) * size.batch_tokens


def test_widths_are_multiples_of_64_and_the_dense_inner_width_is_eight_thirds() -> None:
    net = model_sizing.size_for_depth(12, "gpt", 4096, 256, count).model
    assert (net["hidden"], net["inner"]) == (768, 2048)


def test_batches_grow_with_tokens_as_their_source_says() -> None:
    assert model_sizing.optimal_batch_tokens(1_320_000_000) == 2**19  # the reference itself
    assert model_sizing.optimal_batch_tokens(1_320_000_000 * 37) == 2**21  # 37 ** 0.383 = 3.99
    assert model_sizing.optimal_batch_tokens(1) == 1024


def test_adamws_rates_fall_with_the_root_of_the_width_and_muons_stays() -> None:
    assert model_sizing.scaled_lrs(192) == {"embedding": 0.012, "matrix": 0.015, "rest": 0.01}
    assert model_sizing.scaled_lrs(768) == {"embedding": 0.006, "matrix": 0.015, "rest": 0.005}
