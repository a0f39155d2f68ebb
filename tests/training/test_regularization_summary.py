"""The table of safeguards: what was set is read from the loop's settings and the built net, what came of it from the steps."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.models.moe.config import MoEConfig as Shape
from provenlm.models.moe.spec import SPEC
from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import EarlyStoppingConfig, SpikeGuardConfig
from provenlm.training.regularization_summary import safeguards


def told(
    model: nn.Module, config: TrainConfig, rows: list[HistoryRow], stopped: str = "all steps done"
) -> dict[str, tuple[Any, ...]]:
    audit = MetricRecorder()
    safeguards(audit, model, config, StepHistory(rows), stopped)
    (table,) = audit.tables
    return {str(name): (result, came) for name, result, came in table.rows}


@pytest.fixture
def rows() -> list[HistoryRow]:
    """Four steps: the second clipped, the third skipped, the last measured and at half the rates with half the rows."""
    usual: HistoryRow = {"grad_norm": 0.5, "share": 1.0, "micro_batch": 4}
    return [
        {**usual, "step": 1},
        {**usual, "step": 2, "grad_norm": 3.0},
        {**usual, "step": 3, "skipped": "loss"},
        {**usual, "step": 4, "share": 0.5, "micro_batch": 2, "held_out.cross_entropy": 2.0},
    ]


def test_what_came_of_each_is_counted_in_the_steps(
    model_config: Shape, make_config: Callable[..., TrainConfig], rows: list[HistoryRow]
) -> None:
    results = told(SPEC.build(model_config, 20), make_config(), rows)
    assert results["gradient clipping"] == ("1", "1 of 4 steps clipped")
    assert results["steps that stand out"] == ("the first not finite one stops", "1 skipped, went back 0 times")
    assert results["held-out loss"] == ("every 5 steps", "measured 1 times")
    assert results["rows at a time"] == ("4", "2 at the least")
    assert results["lower rates on a plateau"] == ("off", "lowest share of the rates 0.5")


def test_dropout_is_that_of_the_built_net_and_not_of_the_settings(
    model_config: Shape, make_config: Callable[..., TrainConfig], rows: list[HistoryRow]
) -> None:
    with_it, without = SPEC.build(model_config, 20), SPEC.build(replace(model_config, dropout=0.0), 20)
    assert told(with_it, make_config(), rows)["dropout"][0] == "0.1"
    assert told(without, make_config(), rows)["dropout"] == ("off", "held by 0 modules of the built net")
    assert told(nn.Linear(2, 2), make_config(), rows)["dropout"] == ("off", "held by 0 modules of the built net")


def test_what_was_asked_for_is_told(model_config: Shape, make_config: Callable[..., TrainConfig], rows: list[HistoryRow]) -> None:
    result = make_config(
        early_stopping=EarlyStoppingConfig(3, 0.0),
        label_smoothing=0.1,
        spike_guard=SpikeGuardConfig(8, 4, 6.0, 2, 5, 1, 0.5, 10),
        ema_decay=0.99,
        activation_checkpointing=2,
    )
    results = told(SPEC.build(model_config, 20), result, rows, "no better held-out loss")
    assert results["early stopping"] == ("after 3 measurements without a better one", "ended: no better held-out loss")
    assert results["label smoothing"][0] == "0.1" and results["moving average of the weights"][0] == "0.99"
    assert results["steps that stand out"][0] == "skipped above 6 robust deviations"
    assert results["weight decay"][0] == "embedding 0, matrix 0.01, rest 0"
