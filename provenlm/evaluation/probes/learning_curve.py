"""The losses of a finished training by step in; what they say of over- and underfitting, and how well they could be foretold, out.

The names follow Goodfellow, Bengio and Courville 2016, section 5.2: underfitting is a loss that could still be lowered, overfitting
a held-out loss that rises again.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe

FloatArray = NDArray[np.float64]
CurvePoint = tuple[float, float, float]  # step, training loss since the point before, held-out loss
REBOUND_THRESHOLD = 0.02  # of the fall: less is the noise of held-out losses that are measured on the same rows
LATE_IMPROVEMENT_THRESHOLD = 0.05  # of the fall, in the last fifth of the steps
MIN_POINTS = 5
NOT_APPLICABLE = "not applicable"


def learning_curve_probe(points: Sequence[CurvePoint]) -> Probe:
    """`points` in order of their steps; with fewer than FEWEST nothing is said."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        metrics.add_count("points", len(points), "points", "at which training and held-out loss were both measured while it ran")
        if len(points) < MIN_POINTS:
            description = f"fewer than {MIN_POINTS} held-out losses were measured while it ran: a curve needs them"
            metrics.add_count("reads", NOT_APPLICABLE, "", description)
            return
        steps, train_losses, val_losses = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
        _record_fit(metrics, steps, train_losses, val_losses)
        _record_extrapolation(metrics, steps, val_losses)

    return probe


def _record_fit(metrics: MetricRecorder, steps: FloatArray, train_losses: FloatArray, val_losses: FloatArray) -> None:
    improvement = float(val_losses[0] - val_losses.min())
    rebound = float(val_losses[-1] - val_losses.min()) / improvement if improvement > 0 else math.inf
    late_start_loss = float(np.interp(0.8 * steps[-1], steps, val_losses))
    late_improvement = (late_start_loss - float(val_losses[-1])) / improvement if improvement > 0 else 0.0
    metrics.add_measurement("best_step", int(steps[val_losses.argmin()]), "steps", "step with the smallest held-out loss")
    metrics.add_measurement(
        "gap", float(val_losses[-1] - train_losses[-1]), "nats/token", "held-out loss minus training loss at the end"
    )
    description = "share of the fall of the held-out loss that was given back after its best step"
    metrics.add_measurement("given_back", rebound, "share", description)
    metrics.add_measurement(
        "late_fall", late_improvement, "share", "share of the fall of the held-out loss that came in the last fifth of the steps"
    )
    diagnosis = diagnose_fit(rebound, late_improvement)
    description = (
        f"overfitting: more than {REBOUND_THRESHOLD:.0%} of the fall was given back; underfitting: not that, and more than {LATE_IMPROVEMENT_THRESHOLD:.0%} "
        "of it came in the last fifth of the steps, so that more steps would help"
    )
    metrics.add_measurement("reads", diagnosis, "", description)


def diagnose_fit(rebound: float, late_improvement: float) -> str:
    """What a curve is called that gave `back` and fell `late` these shares of its fall."""
    if rebound > REBOUND_THRESHOLD:
        return "overfitting"
    return "underfitting" if late_improvement > LATE_IMPROVEMENT_THRESHOLD else "neither"


def _record_extrapolation(metrics: MetricRecorder, steps: FloatArray, val_losses: FloatArray) -> None:
    """A power law through the first half, asked for the end (as scaling laws have it: Kaplan et al. 2020, arXiv 2001.08361)."""
    first_half = (steps > steps[0]) & (steps <= steps[-1] / 2)
    if first_half.sum() < 2:
        return
    slope, intercept = np.polyfit(np.log(steps[first_half]), np.log(val_losses[first_half]), 1)
    extrapolated = float(np.exp(intercept + slope * np.log(steps[-1])))
    description = "held-out loss at the last step, by a power law through what was measured in the first half of the steps"
    metrics.add_estimate("expected", extrapolated, "nats/token", description)
    metrics.add_measurement("reached", float(val_losses[-1]), "nats/token", "held-out loss at the last step, on the same rows")
    metrics.add_estimate(
        "reached_minus_expected", float(val_losses[-1]) - extrapolated, "nats/token", "loss reached minus loss expected"
    )
