"""Curves by hand, and what they are called."""

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.learning_curve import diagnose_fit, learning_curve_probe


def make_points(val_losses, train_losses=None):
    return [(10.0 * n, loss if train_losses is None else train_losses[n - 1], loss) for n, loss in enumerate(val_losses, 1)]


def run_curve(run_probe, trained_context, val_losses, train_losses=None):
    return run_probe(learning_curve_probe(make_points(val_losses, train_losses)), trained_context)


def test_a_validation_loss_that_rises_again_is_overfitting(run_probe, trained_context):
    metrics = run_curve(run_probe, trained_context, [8, 5, 4, 4.5, 5], [8, 5, 3, 2, 1])
    assert (metrics["fit_diagnosis"], metrics["best_step"]) == ("overfitting", 30)
    assert metrics["rebound"] == pytest.approx(1 / 4)
    assert metrics["generalization_gap"] == 4


def test_a_validation_loss_that_still_falls_is_underfitting(run_probe, trained_context):
    metrics = run_curve(run_probe, trained_context, [8, 7, 6, 5, 4])
    assert (metrics["fit_diagnosis"], metrics["rebound"]) == ("underfitting", 0)
    assert metrics["late_improvement"] == pytest.approx(1 / 4)


def test_a_validation_loss_that_levels_off_is_neither(run_probe, trained_context):
    assert run_curve(run_probe, trained_context, [8, 5, 4, 4, 3.99])["fit_diagnosis"] == "neither"


def test_a_loss_that_only_rises_is_overfitting(run_probe, trained_context):
    assert run_curve(run_probe, trained_context, [4, 5, 6, 7, 8])["fit_diagnosis"] == "overfitting"


@pytest.mark.parametrize(
    ("rebound", "late_improvement", "diagnosis"),
    [(0.03, 0.5, "overfitting"), (0.01, 0.06, "underfitting"), (0.01, 0.01, "neither")],
)
def test_overfitting_is_diagnosed_before_underfitting(rebound, late_improvement, diagnosis):
    assert diagnose_fit(rebound, late_improvement) == diagnosis


def test_a_power_law_is_extrapolated_exactly_and_is_an_estimate(trained_context):
    recorder = MetricRecorder()
    learning_curve_probe([(float(s), 1.0, 9.0 * s**-0.2) for s in (1, 10, 20, 30, 40, 50, 60, 80, 100)]).run(
        trained_context, recorder
    )
    assert recorder.metrics["extrapolated_loss"].value == pytest.approx(recorder.metrics["final_loss"].value, rel=1e-9)
    assert recorder.metrics["extrapolated_loss"].kind == recorder.metrics["final_minus_extrapolated"].kind == "estimated"
    assert recorder.metrics["final_loss"].kind == "measured"


def test_a_loss_that_stops_falling_misses_its_extrapolation(trained_context):
    recorder = MetricRecorder()
    learning_curve_probe([(float(s), 1.0, 9.0 * min(s, 50) ** -0.2) for s in (1, 10, 20, 30, 40, 50, 60, 80, 100)]).run(
        trained_context, recorder
    )
    assert recorder.metrics["final_minus_extrapolated"].value == pytest.approx(9 * (50**-0.2 - 100**-0.2), rel=1e-6)
