"""Diagnose over- and underfitting from the learning curve.

The terms follow Goodfellow, Bengio and Courville 2016, section 5.2: underfitting is a loss that could still be lowered,
overfitting a validation loss that rises again.
"""

import math
from collections.abc import Sequence

import numpy as np

from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.arrays import FloatArray
from provenlm.evaluation.probe import EvalContext, Probe

CurvePoint = tuple[float, float, float]  # step, training loss since the previous point, validation loss
REBOUND_THRESHOLD = 0.02  # of the improvement: less is noise
LATE_IMPROVEMENT_THRESHOLD = 0.05  # of the improvement, in the last fifth of the steps
MIN_POINTS = 5


def learning_curve_probe(points: Sequence[CurvePoint]) -> Probe:
    """Return the probe that diagnoses the learning curve.

    `points` are at least MIN_POINTS, in order of their steps.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        metrics.add_count(
            "num_points", len(points), "points", "Steps at which training and validation loss were measured during training"
        )
        steps, train_losses, val_losses = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
        _record_fit(metrics, steps, train_losses, val_losses)
        _record_extrapolation(metrics, steps, val_losses)

    hint = "the model overfits: keep the best checkpoint, stop earlier, or train on more data"
    return Probe(probe, frozenset({"val_history"}), {"rebound": Check(f"<= {REBOUND_THRESHOLD}", hint)})


def _record_fit(metrics: MetricRecorder, steps: FloatArray, train_losses: FloatArray, val_losses: FloatArray) -> None:
    improvement = float(val_losses[0] - val_losses.min())
    rebound = float(val_losses[-1] - val_losses.min()) / improvement if improvement > 0 else math.inf
    late_start_loss = float(np.interp(0.8 * steps[-1], steps, val_losses))
    late_improvement = (late_start_loss - float(val_losses[-1])) / improvement if improvement > 0 else 0.0
    metrics.add_measurement("best_step", int(steps[val_losses.argmin()]), "steps", "Step with the smallest validation loss")
    metrics.add_measurement(
        "generalization_gap",
        float(val_losses[-1] - train_losses[-1]),
        "nats/token",
        "Validation loss minus training loss at the last measured step",
    )
    description = "Rise of the validation loss after its best step, relative to its total improvement"
    metrics.add_measurement("rebound", rebound, "fraction", description)
    metrics.add_measurement(
        "late_improvement",
        late_improvement,
        "fraction",
        "Improvement of the validation loss in the last fifth of the steps, relative to its total improvement",
    )
    diagnosis = diagnose_fit(rebound, late_improvement)
    description = (
        f"Diagnosis of the learning curve: overfitting if the rebound is above {REBOUND_THRESHOLD:.0%}, else underfitting if the "
        f"late improvement is above {LATE_IMPROVEMENT_THRESHOLD:.0%}, else neither"
    )
    metrics.add_measurement("fit_diagnosis", diagnosis, "", description)


def diagnose_fit(rebound: float, late_improvement: float) -> str:
    """Classify a curve by its rebound and late improvement.

    Both are relative to the total improvement.
    """
    if rebound > REBOUND_THRESHOLD:
        return "overfitting"
    return "underfitting" if late_improvement > LATE_IMPROVEMENT_THRESHOLD else "neither"


def _record_extrapolation(metrics: MetricRecorder, steps: FloatArray, val_losses: FloatArray) -> None:
    """Fit a power law to the first half and extrapolate to the last step.

    Kaplan et al. 2020, arXiv 2001.08361.
    """
    first_half = (steps > steps[0]) & (steps <= steps[-1] / 2)
    if first_half.sum() < 2:
        return
    slope, intercept = np.polyfit(np.log(steps[first_half]), np.log(val_losses[first_half]), 1)
    extrapolated = float(np.exp(intercept + slope * np.log(steps[-1])))
    description = "Validation loss at the last step, extrapolated by a power law from the first half of the steps"
    metrics.add_estimate("extrapolated_loss", extrapolated, "nats/token", description)
    metrics.add_measurement("final_loss", float(val_losses[-1]), "nats/token", "Validation loss at the last step")
    metrics.add_estimate(
        "final_minus_extrapolated",
        float(val_losses[-1]) - extrapolated,
        "nats/token",
        "Validation loss at the last step minus its extrapolation from the first half of the steps",
    )
