"""Settings that cannot be right are refused on the first line."""

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


def test_a_group_wants_as_many_betas_as_its_optimizer_has() -> None:
    with pytest.raises(ValueError, match="muon takes 1"):
        ParamGroupConfig("muon", 0.02, (0.9, 0.95), 0.0)


def test_muon_is_refused_for_embeddings() -> None:
    with pytest.raises(ValueError, match="for embedding adamw would be right"):
        OptimizerConfig(ParamGroupConfig("muon", 0.02, (0.95,), 0.0), ADAMW, ADAMW, None)


def test_a_micro_batch_must_divide_the_batch(settings: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="must divide batch, 8"):
        settings(micro_batch=3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"parallel": DistributedConfig(3, "ddp")}, "micro_batch is 4; it times 3 processes must divide batch, 8"),
        ({"parallel": DistributedConfig(2, "ddp"), "micro_batch": "auto"}, "with parallel a number would be right"),
        (
            {"parallel": DistributedConfig(2, "fsdp2"), "samples": SampleConfig(("a",), 1, GREEDY)},
            "with fsdp2 none has the whole net; null",
        ),
    ],
)
def test_what_processes_cannot_share_is_refused(settings: Callable[..., Any], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**asked)


def test_how_many_processes_compute_does_not_decide_the_weights(settings: Callable[..., Any]) -> None:
    assert settings(parallel=DistributedConfig(2, "ddp")).deciding == settings().deciding
    with pytest.raises(ValueError, match="at least 1"):
        DistributedConfig(0, "ddp")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 12, "epochs": 3.0}, "steps: 12 and epochs: 3 are given, exactly one would be right"),
        ({"epochs": 3.0, "tokens": 5e6, "steps": None}, "epochs: 3 and tokens: 5e[+]06 are given"),
        ({"steps": None}, "steps, epochs or tokens; none of them is given"),
        ({"steps": 0}, "steps: 0; above 0"),
        ({"steps": None, "epochs": -1.0}, "epochs: -1; above 0"),
    ],
)
def test_a_training_lasts_for_exactly_one_duration(settings: Callable[..., Any], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**asked)


def test_who_looks_on_does_not_decide_the_weights(settings: Callable[..., Any]) -> None:
    assert settings(watch=("tensorboard",)).deciding == settings().deciding != settings(seed=2).deciding


def test_a_label_that_is_all_smoothed_away_is_refused(settings: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="from 0 to below 1"):
        settings(label_smoothing=1.0)


def test_a_warm_up_longer_than_the_run_is_refused(settings: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="more than the 12 steps"):
        settings(schedule=LRScheduleConfig(10, 3, "linear", 0.0))


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0)])
def test_held_out_wants_at_least_one_row_and_one_step(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TrainEvalConfig(*wrong)


def test_an_unknown_key_deep_inside_is_named_with_its_place() -> None:
    with pytest.raises(ProvenlmError, match=r"p.yaml: recipes.a.train.schedule: unknown key 'warm_up' \(did you mean 'warmup'\?\)"):
        parse_config(
            LRScheduleConfig, {"warm_up": 1, "hold": 0, "decay": "linear", "final": 0.0}, "p.yaml: recipes.a.train.schedule"
        )
    with pytest.raises(ProvenlmError, match="missing key"):
        parse_config(TrainConfig, {}, "p.yaml: recipes.a.train")
