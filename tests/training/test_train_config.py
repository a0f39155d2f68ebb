"""Test that `TrainConfig` and its sections refuse invalid values."""

from collections.abc import Callable
from typing import Any

import pytest

from provenlm.core.config import parse_config
from provenlm.core.errors import ProvenlmError
from provenlm.models.generation.sampling import SamplingConfig
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import (
    DistributedConfig,
    LRScheduleConfig,
    OptimizerConfig,
    ParamGroupConfig,
    SampleConfig,
    TrainEvalConfig,
)

ADAMW = ParamGroupConfig("adamw", 0.01, (0.9, 0.95), 0.0)
GREEDY = SamplingConfig(0.0, 0, 1.0, 1.0)


def test_a_param_group_needs_as_many_betas_as_its_optimizer() -> None:
    with pytest.raises(ValueError, match=r"betas must be 1 numbers >= 0 and < 1 for muon, got \[0.9, 0.95\]"):
        ParamGroupConfig("muon", 0.02, (0.9, 0.95), 0.0)


def test_muon_is_refused_for_embeddings() -> None:
    with pytest.raises(ValueError, match="embedding.name must be adamw, lion or sgd"):
        OptimizerConfig(ParamGroupConfig("muon", 0.02, (0.95,), 0.0), ADAMW, ADAMW, None)


def test_a_micro_batch_must_divide_the_batch(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="micro_batch_size must divide global_batch_size, 8, got 3"):
        make_config(micro_batch_size=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed": DistributedConfig(3, "ddp")}, "micro_batch_size × 3 processes must divide global_batch_size, 8, got 4"),
        (
            {"distributed": DistributedConfig(2, "ddp"), "micro_batch_size": "auto"},
            "micro_batch_size must be a number with distributed, got auto",
        ),
        (
            {"distributed": DistributedConfig(2, "fsdp2"), "sample": SampleConfig(("a",), 1, GREEDY)},
            "sample must be null with distributed.strategy: fsdp2",
        ),
    ],
)
def test_invalid_distributed_configs_are_refused(make_config: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_the_number_of_processes_is_no_result_field(make_config: Callable[..., Any]) -> None:
    assert make_config(distributed=DistributedConfig(2, "ddp")).result_fields == make_config().result_fields
    with pytest.raises(ValueError, match="world_size must be >= 1, got 0"):
        DistributedConfig(0, "ddp")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_steps": 12, "epochs": 3.0},
            "exactly one of max_steps, epochs and max_tokens must be set, got max_steps: 12 and epochs: 3",
        ),
        ({"epochs": 3.0, "max_tokens": 5e6, "max_steps": None}, "got epochs: 3 and max_tokens: 5e[+]06"),
        ({"max_steps": None}, "must be set, got none"),
        ({"max_steps": 0}, "max_steps must be > 0, got 0"),
        ({"max_steps": None, "epochs": -1.0}, "epochs must be > 0, got -1"),
    ],
)
def test_exactly_one_duration_must_be_set(make_config: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_loggers_are_no_result_field(make_config: Callable[..., Any]) -> None:
    assert make_config(loggers=("tensorboard",)).result_fields == make_config().result_fields != make_config(seed=2).result_fields


def test_label_smoothing_of_one_is_refused(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="label_smoothing must be >= 0 and < 1, got 1.0"):
        make_config(label_smoothing=1.0)


def test_a_warm_up_longer_than_the_run_is_refused(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"lr_schedule.warmup_steps \+ lr_schedule.stable_steps must be <= 12 steps, got 13"):
        make_config(lr_schedule=LRScheduleConfig(10, 3, "linear", 0.0))


@pytest.mark.parametrize(("interval", "num_sequences", "field"), [(0, 1, "interval"), (1, 0, "num_sequences")])
def test_eval_needs_at_least_one_step_and_one_sequence(interval: int, num_sequences: int, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be >= 1, got 0"):
        TrainEvalConfig(interval, num_sequences)


def test_an_unknown_nested_key_is_named_with_its_location() -> None:
    with pytest.raises(
        ProvenlmError, match=r"p.yaml: recipes.a.train.lr_schedule: unknown key 'warm_up' \(did you mean 'warmup_steps'\?\)"
    ):
        parse_config(
            LRScheduleConfig,
            {"warm_up": 1, "stable_steps": 0, "decay_type": "linear", "min_lr_factor": 0.0},
            "p.yaml: recipes.a.train.lr_schedule",
        )
    with pytest.raises(ProvenlmError, match="exactly one of max_steps, epochs and max_tokens must be set, got none"):
        parse_config(TrainConfig, {}, "p.yaml: recipes.a.train")
