"""fp16: the loss is scaled, an overflow halves the scale and is no spike, many steps without one double it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.callbacks.nonfinite import Finite
from provenlm.training.callbacks.spike_guard import Stability
from provenlm.training.config_sections import Stability as Wanted
from provenlm.training.dataloader import batches_for
from provenlm.training.loop import fit
from provenlm.training.optim import grad_scaler
from provenlm.training.optim.grad_scaler import Scaler
from provenlm.training.optim.gradients import gather
from provenlm.training.step import Step, Update

LADDER = Wanted(window=8, least=4, limit=50.0, skips=2, within=4, returns=2, slower=0.5, slower_steps=3)


def run(tokens: Any, shape: Any, settings: Any, monitor: Any, poison: int | None = None) -> tuple[list[Step], list[Any]]:
    """(the steps, the weights before each of them and at the end); the loss of the `poison`-th pass is no number."""
    rng_state.seed_all(3)
    model = SPEC.build(shape, tokens.vocabulary)
    (real,) = SPEC.objectives(model, IGNORE)
    passes = []

    def loss(batch: Batch) -> Any:
        passes.append(batch)
        terms = dict(real.loss(batch))
        return {**terms, "loss": terms["loss"] * math.nan} if len(passes) == poison else terms

    steps, weights = [], [[p.tolist() for p in model.parameters()]]
    for step in fit(model, [replace(real, loss=loss)], batches_for(tokens, settings), [monitor], settings, None, lambda: None):
        steps.append(step)
        weights.append([p.tolist() for p in model.parameters()])
    return steps, weights


def test_a_planted_overflow_halves_the_scale_until_gradients_fit_and_no_monitor_hears_of_it(
    tokens: Any, shape: Any, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first scale of 2^30: fp16 ends at 65,504. More steps overflow than the ladder allows to be skipped."""
    monkeypatch.setattr(grad_scaler, "FIRST", 2.0**30)
    monitor = Stability(LADDER)
    steps, weights = run(tokens, shape, settings(steps=24, precision="fp16", held_out=None), monitor)
    over = [step.overflow is not None for step in steps]
    first = over.index(False)
    assert 3 < first < 20
    assert over == [True] * first + [False] * (24 - first)
    assert [step.scale for step in steps] == [2.0 ** (30 - min(n, first)) for n in range(24)]
    assert all(weights[n] == weights[0] for n in range(first + 1))
    assert weights[first + 1] != weights[0]
    assert [(step.skipped, step.back) for step in steps] == [(None, None)] * 24
    assert monitor.state()["skipped"] == [] and len(monitor.windows["next_token"]) == 8
    assert "left the range of fp16 at a scale of 1.07374e+09" in (steps[0].overflow or "")
    assert steps[-1].terms["loss"] < steps[0].terms["loss"]


def test_many_steps_without_overflow_double_the_scale(
    tokens: Any, shape: Any, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grad_scaler, "PATIENCE", 5)
    monkeypatch.setattr(grad_scaler, "FIRST", 16.0)
    steps, _ = run(tokens, shape, settings(precision="fp16"), Finite())
    assert [step.scale for step in steps] == [16.0] * 5 + [32.0] * 5 + [64.0] * 2


def test_the_scale_does_not_reach_the_update(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    """In fp32 the same gradient, at a scale that is a power of two, has the same bits."""
    ends = []
    for scale in (1.0, 2.0**12):
        rng_state.seed_all(3)
        model = SPEC.build(replace(shape, dropout=0.0), tokens.vocabulary)
        batch = batches_for(tokens, settings()).take(0, 8)
        (objective,) = SPEC.objectives(model, IGNORE)
        found = gather(objective, batch, 4, "fp32", scale, 1.0, torch.device("cpu"))
        ends.append((found, [p.grad.tolist() for p in model.parameters() if p.grad is not None]))
    assert ends[0] == ends[1]


def test_fp16_learns_and_keeps_the_weights_wide(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    steps, _ = run(tokens, shape, settings(steps=30, precision="fp16"), Finite())
    assert steps[-1].terms["cross_entropy"] < steps[0].terms["cross_entropy"]
    assert [step.overflow for step in steps] == [None] * 30


def test_a_loss_that_is_no_number_is_no_matter_of_scale(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    steps, _ = run(tokens, shape, settings(precision="fp16", held_out=None), Finite(), poison=7)
    assert (steps[-1].number, steps[-1].overflow, steps[-1].scale) == (4, None, 2.0**16)
    assert "loss is nan" in (steps[-1].stop or "")


def test_what_overflows_at_a_scale_of_one_goes_to_the_ladder() -> None:
    wild = Update("o", 1, {"loss": 1.0}, math.inf, {})
    one = Scaler("fp16")
    for _ in range(16):
        assert one.overflow(wild)
        one.settle(True)
    assert one.scale == 1.0
    assert one.overflow(wild) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_where_the_range_is_wide_nothing_is_scaled(precision: str) -> None:
    one = Scaler(precision)
    assert one.overflow(Update("o", 1, {"loss": 1.0}, math.inf, {})) is None
    one.settle(False)
    assert (one.scale, one.since) == (1.0, 0)
