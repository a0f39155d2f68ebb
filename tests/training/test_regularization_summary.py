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
    model: nn.Module, settings: TrainConfig, rows: list[HistoryRow], stopped: str = "all steps done"
) -> dict[str, tuple[Any, ...]]:
    audit = MetricRecorder()
    safeguards(audit, model, settings, StepHistory(rows), stopped)
    (table,) = audit.tables
    return {str(name): (asked, came) for name, asked, came in table.rows}


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
    shape: Shape, settings: Callable[..., TrainConfig], rows: list[HistoryRow]
) -> None:
    found = told(SPEC.build(shape, 20), settings(), rows)
    assert found["gradient clipping"] == ("1", "1 of 4 steps clipped")
    assert found["steps that stand out"] == ("the first not finite one stops", "1 skipped, went back 0 times")
    assert found["held-out loss"] == ("every 5 steps", "measured 1 times")
    assert found["rows at a time"] == ("4", "2 at the least")
    assert found["lower rates on a plateau"] == ("off", "lowest share of the rates 0.5")


def test_dropout_is_that_of_the_built_net_and_not_of_the_settings(
    shape: Shape, settings: Callable[..., TrainConfig], rows: list[HistoryRow]
) -> None:
    with_it, without = SPEC.build(shape, 20), SPEC.build(replace(shape, dropout=0.0), 20)
    assert told(with_it, settings(), rows)["dropout"][0] == "0.1"
    assert told(without, settings(), rows)["dropout"] == ("off", "held by 0 modules of the built net")
    assert told(nn.Linear(2, 2), settings(), rows)["dropout"] == ("off", "held by 0 modules of the built net")


def test_what_was_asked_for_is_told(shape: Shape, settings: Callable[..., TrainConfig], rows: list[HistoryRow]) -> None:
    asked = settings(
        early_stop=EarlyStoppingConfig(3, 0.0),
        label_smoothing=0.1,
        stability=SpikeGuardConfig(8, 4, 6.0, 2, 5, 1, 0.5, 10),
        ema=0.99,
        recompute=2,
    )
    found = told(SPEC.build(shape, 20), asked, rows, "no better held-out loss")
    assert found["early stopping"] == ("after 3 measurements without a better one", "ended: no better held-out loss")
    assert found["label smoothing"][0] == "0.1" and found["moving average of the weights"][0] == "0.99"
    assert found["steps that stand out"][0] == "skipped above 6 robust deviations"
    assert found["weight decay"][0] == "embedding 0, matrix 0.01, rest 0"
