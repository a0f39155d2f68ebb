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
from provenlm.training.callbacks.nonfinite import NonFiniteGuard
from provenlm.training.callbacks.spike_guard import SpikeGuard
from provenlm.training.config_sections import SpikeGuardConfig as Wanted
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.optim import grad_scaler
from provenlm.training.optim.grad_scaler import GradScaler
from provenlm.training.optim.gradients import compute_gradients
from provenlm.training.step import GradientInfo, StepResult

LADDER = Wanted(
    window_size=8,
    min_history=4,
    threshold_std=50.0,
    max_skips=2,
    skip_window=4,
    max_rollbacks=2,
    rollback_lr_factor=0.5,
    rollback_lr_steps=3,
)


def run(tokens: Any, shape: Any, settings: Any, monitor: Any, poison: int | None = None) -> tuple[list[StepResult], list[Any]]:
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
    for step in train_steps(
        model, [replace(real, loss=loss)], build_dataloader(tokens, settings), [monitor], settings, None, lambda: None
    ):
        steps.append(step)
        weights.append([p.tolist() for p in model.parameters()])
    return steps, weights


def test_a_planted_overflow_halves_the_scale_until_gradients_fit_and_no_monitor_hears_of_it(
    tokens: Any, shape: Any, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first scale of 2^30: fp16 ends at 65,504. More steps overflow than the ladder allows to be skipped."""
    monkeypatch.setattr(grad_scaler, "FIRST", 2.0**30)
    monitor = SpikeGuard(LADDER)
    steps, weights = run(tokens, shape, settings(steps=24, precision="fp16", held_out=None), monitor)
    over = [step.overflow_reason is not None for step in steps]
    first = over.index(False)
    assert 3 < first < 20
    assert over == [True] * first + [False] * (24 - first)
    assert [step.loss_scale for step in steps] == [2.0 ** (30 - min(n, first)) for n in range(24)]
    assert all(weights[n] == weights[0] for n in range(first + 1))
    assert weights[first + 1] != weights[0]
    assert [(step.skip_reason, step.rollback_reason) for step in steps] == [(None, None)] * 24
    assert monitor.state_dict()["skipped"] == [] and len(monitor.windows["next_token"]) == 8
    assert "left the range of fp16 at a scale of 1.07374e+09" in (steps[0].overflow_reason or "")
    assert steps[-1].terms["loss"] < steps[0].terms["loss"]


def test_many_steps_without_overflow_double_the_scale(
    tokens: Any, shape: Any, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grad_scaler, "PATIENCE", 5)
    monkeypatch.setattr(grad_scaler, "FIRST", 16.0)
    steps, _ = run(tokens, shape, settings(precision="fp16"), NonFiniteGuard())
    assert [step.loss_scale for step in steps] == [16.0] * 5 + [32.0] * 5 + [64.0] * 2


def test_the_scale_does_not_reach_the_update(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    """In fp32 the same gradient, at a scale that is a power of two, has the same bits."""
    ends = []
    for scale in (1.0, 2.0**12):
        rng_state.seed_all(3)
        model = SPEC.build(replace(shape, dropout=0.0), tokens.vocabulary)
        batch = build_dataloader(tokens, settings()).batch_at(0, 8)
        (objective,) = SPEC.objectives(model, IGNORE)
        found = compute_gradients(objective, batch, 4, "fp32", scale, 1.0, torch.device("cpu"))
        ends.append((found, [p.grad.tolist() for p in model.parameters() if p.grad is not None]))
    assert ends[0] == ends[1]


def test_fp16_learns_and_keeps_the_weights_wide(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    steps, _ = run(tokens, shape, settings(steps=30, precision="fp16"), NonFiniteGuard())
    assert steps[-1].terms["cross_entropy"] < steps[0].terms["cross_entropy"]
    assert [step.overflow_reason for step in steps] == [None] * 30


def test_a_loss_that_is_no_number_is_no_matter_of_scale(tokens: Any, shape: Any, settings: Callable[..., Any]) -> None:
    steps, _ = run(tokens, shape, settings(precision="fp16", held_out=None), NonFiniteGuard(), poison=7)
    assert (steps[-1].number, steps[-1].overflow_reason, steps[-1].loss_scale) == (4, None, 2.0**16)
    assert "loss is nan" in (steps[-1].stop_reason or "")


def test_what_overflows_at_a_scale_of_one_goes_to_the_ladder() -> None:
    wild = GradientInfo("o", 1, {"loss": 1.0}, math.inf, {})
    one = GradScaler("fp16")
    for _ in range(16):
        assert one.overflow_reason(wild)
        one.update(True)
    assert one.scale == 1.0
    assert one.overflow_reason(wild) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_where_the_range_is_wide_nothing_is_scaled(precision: str) -> None:
    one = GradScaler(precision)
    assert one.overflow_reason(GradientInfo("o", 1, {"loss": 1.0}, math.inf, {})) is None
    one.update(False)
    assert (one.scale, one.growth_tracker) == (1.0, 0)
