"""What a net tells of a step: where its routers sent the tokens of the whole batch, in the history and as figures; a dead expert shows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.metrics import layer_metrics
from provenlm.models.moe.spec import SPEC
from provenlm.training import metrics, rng_state
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.step import StepResult


def run(tokens: Any, shape: Any, settings: Any, dead: int = 0, most: int = 99) -> tuple[StepHistory, list[StepResult]]:
    """A run whose second layer never chooses its first `dead` experts, with room in memory for `most` rows."""
    rng_state.seed_all(3)
    model = SPEC.build(replace(shape, load_balancing="bias", load_balancing_weight=0.0, dropout=0.0), tokens.vocabulary)
    (real,) = SPEC.objectives(model, IGNORE)
    with torch.no_grad():
        bias_E = model.routers[1].bias_E
        assert bias_E is not None
        bias_E[:dead] = -2.0

    def bounded(batch: Batch) -> Any:
        terms = real.loss(batch)
        if len(batch.inputs_BT) > most:
            raise torch.OutOfMemoryError("planted")
        return terms

    history = StepHistory()
    steps = train_steps(model, [replace(real, loss=bounded)], build_dataloader(tokens, settings), [], settings, None, lambda: None)
    return history, list(history.record_steps(steps))


def test_the_figures_of_the_first_step_are_those_of_its_whole_batch(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    """By the probe that looks at a trained net, on the untrained one and all rows at once."""
    wanted = settings(batch=8, micro_batch=2, held_out=None)
    _, (first, *_) = run(tokens, shape, wanted)
    rng_state.seed_all(3)
    model = SPEC.build(replace(shape, load_balancing="bias", dropout=0.0), tokens.vocabulary)
    layers = [layer_metrics(routing) for routing in model.states(build_dataloader(tokens, wanted).batch_at(0, 8).inputs_BT)[1]]
    told = {name: value for name, (value, _, _) in first.model_metrics.items()}
    assert told["experts.load_max"] == pytest.approx(max(layer["load_max"] for layer in layers))
    assert told["experts.load_min"] == pytest.approx(min(layer["load_min"] for layer in layers))
    assert told["experts.dead"] == sum(layer["dead_experts"] for layer in layers)
    assert told["router.entropy"] == pytest.approx(sum(layer["router_entropy"] for layer in layers) / 2, rel=1e-5)
    assert told["experts.dropped"] == 0


def test_a_dead_expert_shows_in_the_history_the_figures_and_the_curves(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    history, steps = run(tokens, shape, settings(), dead=2)
    assert [value for _, value in history.series("experts.dead")] == [2.0] * 12
    assert {value for _, value in history.series("experts.load_min")} == {0.0}
    assert {value for _, value in history.series("experts.load_max")} == {2.0}  # the two that are left are both chosen always
    assert "experts.dead" in StepHistory.from_parquet(history.to_parquet()).rows[0]
    audit = MetricRecorder()
    metrics.record_model_metrics(audit, history, steps[-1])
    assert (audit.metrics["experts.dead.least"].value, audit.metrics["experts.dropped.most"].value) == (2, 0)
    assert [series.name for series in audit.series] == ["router.entropy"]  # nothing else ever changed


def test_where_no_expert_is_dead_none_is_said_to_be(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    history, _ = run(tokens, shape, settings())
    assert {value for _, value in history.series("experts.dead")} == {0.0}


def test_a_batch_that_is_computed_again_for_want_of_memory_is_counted_once(
    tokens: Any, shape: Any, settings: Callable[..., Any]
) -> None:
    wanted = settings(batch=8, micro_batch=8, held_out=None)
    tight, roomy = (run(tokens, shape, wanted, most=most)[1] for most in (3, 99))
    assert tight[0].model_metrics["experts.load_max"][0] == roomy[0].model_metrics["experts.load_max"][0]
    assert tight[0].model_metrics["router.entropy"][0] == pytest.approx(roomy[0].model_metrics["router.entropy"][0], rel=1e-5)


def test_gradient_norms_are_drawn_by_part_where_they_are_finite(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    history, _ = run(tokens, shape, settings())
    history.rows[4]["grad_norm.matrix"] = float("inf")
    (norms,) = [series for series in metrics.build_plots(history, "cross_entropy") if series.name == "gradient_norm"]
    assert list(norms.y_values) == ["embedding", "matrix", "rest"]
    assert list(norms.x_values) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert list(norms.y_values["rest"]) == [row["grad_norm.rest"] for n, row in enumerate(history.rows) if n != 4]
