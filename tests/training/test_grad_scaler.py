"""Test fp16 loss scaling: overflows halve the scale, good steps double it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.callbacks.nonfinite import NonFiniteGuard
from provenlm.training.callbacks.spike_guard import SpikeGuard
from provenlm.training.config_sections import SpikeGuardConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.optim import grad_scaler
from provenlm.training.optim.grad_scaler import GradScaler
from provenlm.training.optim.gradients import compute_gradients
from provenlm.training.step import GradientInfo, StepResult

SPIKE_GUARD = SpikeGuardConfig(
    window_size=8,
    min_history=4,
    threshold_std=50.0,
    max_skips=2,
    skip_window=4,
    max_rollbacks=2,
    rollback_lr_factor=0.5,
    rollback_lr_steps=3,
)


def run(
    dataset: Any, model_config: Any, config: Any, callback: Any, poison: int | None = None
) -> tuple[list[StepResult], list[Any]]:
    """Return the steps, and the weights before each step and at the end; pass number `poison` gives a NaN loss."""
    rng_state.seed_all(3)
    model = SPEC.build(model_config, dataset.vocab_size)
    (real,) = SPEC.objectives(model, IGNORE)
    passes = []

    def loss(batch: TokenBatch) -> Any:
        passes.append(batch)
        terms = dict(real.loss(batch))
        return {**terms, "loss": terms["loss"] * math.nan} if len(passes) == poison else terms

    steps, weights = [], [[p.tolist() for p in model.parameters()]]
    for step in train_steps(
        model, [replace(real, loss=loss)], build_dataloader(dataset, config), [callback], config, None, lambda: None
    ):
        steps.append(step)
        weights.append([p.tolist() for p in model.parameters()])
    return steps, weights


def test_fp16_overflows_halve_the_scale_and_are_hidden_from_callbacks(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start at scale 2^30 (fp16 ends at 65,504): more steps overflow than the spike guard allows to skip."""
    monkeypatch.setattr(grad_scaler, "INITIAL_SCALE", 2.0**30)
    callback = SpikeGuard(SPIKE_GUARD)
    steps, weights = run(dataset, model_config, make_config(max_steps=24, precision="fp16", eval=None), callback)
    over = [step.overflow_reason is not None for step in steps]
    first = over.index(False)
    assert 3 < first < 20
    assert over == [True] * first + [False] * (24 - first)
    assert [step.loss_scale for step in steps] == [2.0 ** (30 - min(n, first)) for n in range(24)]
    assert all(weights[n] == weights[0] for n in range(first + 1))
    assert weights[first + 1] != weights[0]
    assert [(step.skip_reason, step.rollback_reason) for step in steps] == [(None, None)] * 24
    assert callback.state_dict()["skipped_steps"] == [] and len(callback.windows["next_token"]) == 8
    assert "overflowed fp16 at loss scale 1.07374e+09" in (steps[0].overflow_reason or "")
    assert steps[-1].terms["loss"] < steps[0].terms["loss"]


def test_good_steps_double_the_loss_scale(
    dataset: Any, model_config: Any, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grad_scaler, "GROWTH_INTERVAL", 5)
    monkeypatch.setattr(grad_scaler, "INITIAL_SCALE", 16.0)
    steps, _ = run(dataset, model_config, make_config(precision="fp16"), NonFiniteGuard())
    assert [step.loss_scale for step in steps] == [16.0] * 5 + [32.0] * 5 + [64.0] * 2


def test_the_loss_scale_does_not_change_the_gradient(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    """In fp32 the same gradient, at a scale that is a power of two, has the same bits."""
    ends = []
    for scale in (1.0, 2.0**12):
        rng_state.seed_all(3)
        model = SPEC.build(replace(model_config, dropout=0.0), dataset.vocab_size)
        batch = build_dataloader(dataset, make_config()).batch_at(0, 8)
        (objective,) = SPEC.objectives(model, IGNORE)
        results = compute_gradients(objective, batch, 4, "fp32", scale, 1.0, torch.device("cpu"))
        ends.append((results, [p.grad.tolist() for p in model.parameters() if p.grad is not None]))
    assert ends[0] == ends[1]


def test_fp16_learns_with_fp32_weights(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    steps, _ = run(dataset, model_config, make_config(max_steps=30, precision="fp16"), NonFiniteGuard())
    assert steps[-1].terms["cross_entropy"] < steps[0].terms["cross_entropy"]
    assert [step.overflow_reason for step in steps] == [None] * 30


def test_a_nan_loss_does_not_change_the_loss_scale(dataset: Any, model_config: Any, make_config: Callable[..., Any]) -> None:
    steps, _ = run(dataset, model_config, make_config(precision="fp16", eval=None), NonFiniteGuard(), poison=7)
    assert (steps[-1].number, steps[-1].overflow_reason, steps[-1].loss_scale) == (4, None, 2.0**16)
    assert "loss is nan" in (steps[-1].stop_reason or "")


def test_an_overflow_at_scale_one_is_left_to_the_callbacks() -> None:
    wild = GradientInfo("o", 1, {"loss": 1.0}, math.inf, {})
    first = GradScaler("fp16")
    for _ in range(16):
        assert first.overflow_reason(wild)
        first.update(True)
    assert first.scale == 1.0
    assert first.overflow_reason(wild) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fp32_and_bf16_are_not_scaled(precision: str) -> None:
    first = GradScaler(precision)
    assert first.overflow_reason(GradientInfo("o", 1, {"loss": 1.0}, math.inf, {})) is None
    first.update(False)
    assert (first.scale, first.growth_tracker) == (1.0, 0)
