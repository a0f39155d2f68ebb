"""Test the table of regularization settings: values from model and config, effects from the steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC
from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import EarlyStoppingConfig, SpikeGuardConfig
from provenlm.training.regularization_summary import record_regularization


def summary(
    model: nn.Module, config: TrainConfig, rows: list[HistoryRow], stop_reason: str = "completed all steps"
) -> dict[str, tuple[Any, ...]]:
    audit = MetricRecorder()
    record_regularization(audit, model, config, StepHistory(rows), stop_reason)
    (table,) = audit.tables
    return {str(name): (value, effect) for name, value, effect in table.rows}


@pytest.fixture
def rows() -> list[HistoryRow]:
    """Return four steps: the second clipped, the third skipped, the last evaluated, at half the rate and micro-batch."""
    common: HistoryRow = {"grad_norm": 0.5, "lr_scale": 1.0, "micro_batch_size": 4}
    return [
        {**common, "step": 1},
        {**common, "step": 2, "grad_norm": 3.0},
        {**common, "step": 3, "skip_reason": "loss"},
        {**common, "step": 4, "lr_scale": 0.5, "micro_batch_size": 2, "val.cross_entropy": 2.0},
    ]


def test_the_effects_are_counted_in_the_steps(
    model_config: MoEConfig, make_config: Callable[..., TrainConfig], rows: list[HistoryRow]
) -> None:
    table = summary(SPEC.build(model_config, 20), make_config(), rows)
    assert table["gradient clipping"] == ("1", "1 of 4 steps clipped")
    assert table["spike guard"] == ("stop at the first NaN or Inf", "1 steps skipped, 0 rollbacks")
    assert table["validation loss"] == ("every 5 steps", "1 evaluations")
    assert table["micro-batch size"] == ("4", "smallest 2")
    assert table["LR reduction on plateau"] == ("off", "smallest learning-rate factor 0.5")


def test_dropout_is_read_from_the_built_model(
    model_config: MoEConfig, make_config: Callable[..., TrainConfig], rows: list[HistoryRow]
) -> None:
    with_dropout, without = SPEC.build(model_config, 20), SPEC.build(replace(model_config, dropout=0.0), 20)
    assert summary(with_dropout, make_config(), rows)["dropout"][0] == "0.1"
    assert summary(without, make_config(), rows)["dropout"] == ("off", "in 0 modules of the model")
    assert summary(nn.Linear(2, 2), make_config(), rows)["dropout"] == ("off", "in 0 modules of the model")


def test_the_settings_are_shown(model_config: MoEConfig, make_config: Callable[..., TrainConfig], rows: list[HistoryRow]) -> None:
    config = make_config(
        early_stopping=EarlyStoppingConfig(3, 0.0),
        label_smoothing=0.1,
        spike_guard=SpikeGuardConfig(8, 4, 6.0, 2, 5, 1, 0.5, 10),
        ema_decay=0.99,
        activation_checkpointing=2,
    )
    table = summary(SPEC.build(model_config, 20), config, rows, "no improvement")
    assert table["early stopping"] == ("after 3 evaluations without an improvement", "stop reason: no improvement")
    assert table["label smoothing"][0] == "0.1" and table["EMA of the weights"][0] == "0.99"
    assert table["spike guard"][0] == "above 6 robust deviations"
    assert table["weight decay"][0] == "embedding 0, matrix 0.01, default 0"
