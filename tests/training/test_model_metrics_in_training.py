"""Test that metrics reported by the model reach the history and the audit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.metrics import layer_metrics
from provenlm.models.moe.spec import SPEC
from provenlm.training import metrics, rng_state
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.step import StepResult


def run(dataset: Any, model_config: Any, config: Any, dead: int = 0, max_rows: int = 99) -> tuple[StepHistory, list[StepResult]]:
    """Train with `dead` unused experts in the second layer and memory for `max_rows` sequences."""
    rng_state.seed_all(3)
    model = SPEC.build(replace(model_config, load_balancing="bias", load_balancing_weight=0.0, dropout=0.0), dataset.vocab_size)
    (real,) = SPEC.objectives(model, IGNORE)
    with torch.no_grad():
        bias_E = model.routers[1].bias_E
        assert bias_E is not None
        bias_E[:dead] = -2.0

    def bounded(batch: TokenBatch) -> Any:
        terms = real.loss(batch)
        if len(batch.inputs_BT) > max_rows:
            raise torch.OutOfMemoryError("planted")
        return terms

    history = StepHistory()
    steps = train_steps(model, [replace(real, loss=bounded)], build_dataloader(dataset, config), [], config, None, lambda: None)
    return history, list(history.record_steps(steps))


def test_the_model_metrics_of_a_step_are_those_of_its_whole_batch(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    """Compare with the evaluation metrics of the untrained model on the whole batch."""
    config = make_config(global_batch_size=8, micro_batch_size=2, eval=None)
    _, (first, *_) = run(dataset, model_config, config)
    rng_state.seed_all(3)
    model = SPEC.build(replace(model_config, load_balancing="bias", dropout=0.0), dataset.vocab_size)
    layers = [
        layer_metrics(routing) for routing in model.hidden_states(build_dataloader(dataset, config).batch_at(0, 8).inputs_BT)[1]
    ]
    reported = {name: value for name, (value, _, _) in first.model_metrics.items()}
    assert reported["moe.load_imbalance_max"] == pytest.approx(max(layer["load_imbalance_max"] for layer in layers))
    assert reported["moe.load_imbalance_min"] == pytest.approx(min(layer["load_imbalance_min"] for layer in layers))
    assert reported["moe.dead_experts"] == sum(layer["dead_experts"] for layer in layers)
    assert reported["moe.router_entropy"] == pytest.approx(sum(layer["router_entropy"] for layer in layers) / 2, rel=1e-5)
    assert reported["moe.dropped_tokens"] == 0


def test_a_dead_expert_shows_in_history_metrics_and_plots(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    history, steps = run(dataset, model_config, make_config(), dead=2)
    assert [value for _, value in history.series("moe.dead_experts")] == [2.0] * 12
    assert {value for _, value in history.series("moe.load_imbalance_min")} == {0.0}
    assert {value for _, value in history.series("moe.load_imbalance_max")} == {2.0}  # the two other experts are always selected
    assert "moe.dead_experts" in StepHistory.from_parquet(history.to_parquet()).rows[0]
    audit = MetricRecorder()
    metrics.record_model_metrics(audit, history, steps[-1])
    assert (audit.metrics["moe.dead_experts.min"].value, audit.metrics["moe.dropped_tokens.max"].value) == (2, 0)
    assert [series.name for series in audit.series] == ["moe.router_entropy"]  # nothing else ever changed


def test_a_healthy_model_reports_no_dead_expert(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    history, _ = run(dataset, model_config, make_config())
    assert {value for _, value in history.series("moe.dead_experts")} == {0.0}


def test_a_batch_repeated_after_running_out_of_memory_is_counted_once(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    config = make_config(global_batch_size=8, micro_batch_size=8, eval=None)
    tight, roomy = (run(dataset, model_config, config, max_rows=max_rows)[1] for max_rows in (3, 99))
    assert tight[0].model_metrics["moe.load_imbalance_max"][0] == roomy[0].model_metrics["moe.load_imbalance_max"][0]
    assert tight[0].model_metrics["moe.router_entropy"][0] == pytest.approx(
        roomy[0].model_metrics["moe.router_entropy"][0], rel=1e-5
    )


def test_finite_gradient_norms_are_plotted_by_parameter_group(
    dataset: Any, model_config: Any, make_config: Callable[..., Any]
) -> None:
    history, _ = run(dataset, model_config, make_config())
    history.rows[4]["grad_norm.matrix"] = float("inf")
    (norms,) = [series for series in metrics.build_plots(history, "cross_entropy") if series.name == "grad_norm"]
    assert list(norms.y_values) == ["embedding", "matrix", "default"]
    assert list(norms.x_values) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert list(norms.y_values["default"]) == [row["grad_norm.default"] for n, row in enumerate(history.rows) if n != 4]
