"""The losses of a finished training by step in; what they say of over- and underfitting, and how well they could be foretold, out.

The names follow Goodfellow, Bengio and Courville 2016, section 5.2: underfitting is a loss that could still be lowered, overfitting
a held-out loss that rises again.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import Recorder
from provenlm.evaluation.probe import Probe, Subject

Floats = NDArray[np.float64]
Point = tuple[float, float, float]  # step, training loss since the point before, held-out loss
GIVEN_BACK = 0.02  # of the fall: less is the noise of held-out losses that are measured on the same rows
STILL_FALLING = 0.05  # of the fall, in the last fifth of the steps
FEWEST = 5
UNKNOWN = "not applicable"


def curve(points: Sequence[Point]) -> Probe:
    """`points` in order of their steps; with fewer than FEWEST nothing is said."""

    def probe(subject: Subject, figures: Recorder) -> None:
        figures.counted("points", len(points), "points", "at which training and held-out loss were both measured while it ran")
        if len(points) < FEWEST:
            meaning = f"fewer than {FEWEST} held-out losses were measured while it ran: a curve needs them"
            figures.counted("reads", UNKNOWN, "", meaning)
            return
        steps, training, held = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
        _fit(figures, steps, training, held)
        _foretold(figures, steps, held)

    return probe


def _fit(figures: Recorder, steps: Floats, training: Floats, held: Floats) -> None:
    fall = float(held[0] - held.min())
    back = float(held[-1] - held.min()) / fall if fall > 0 else math.inf
    before = float(np.interp(0.8 * steps[-1], steps, held))
    late = (before - float(held[-1])) / fall if fall > 0 else 0.0
    figures.measured("best_step", int(steps[held.argmin()]), "steps", "step with the smallest held-out loss")
    figures.measured("gap", float(held[-1] - training[-1]), "nats/token", "held-out loss minus training loss at the end")
    meaning = "share of the fall of the held-out loss that was given back after its best step"
    figures.measured("given_back", back, "share", meaning)
    figures.measured("late_fall", late, "share", "share of the fall of the held-out loss that came in the last fifth of the steps")
    word = reading(back, late)
    meaning = (
        f"overfitting: more than {GIVEN_BACK:.0%} of the fall was given back; underfitting: not that, and more than {STILL_FALLING:.0%} "
        "of it came in the last fifth of the steps, so that more steps would help"
    )
    figures.measured("reads", word, "", meaning)


def reading(back: float, late: float) -> str:
    """What a curve is called that gave `back` and fell `late` these shares of its fall."""
    if back > GIVEN_BACK:
        return "overfitting"
    return "underfitting" if late > STILL_FALLING else "neither"


def _foretold(figures: Recorder, steps: Floats, held: Floats) -> None:
    """A power law through the first half, asked for the end (as scaling laws have it: Kaplan et al. 2020, arXiv 2001.08361)."""
    first = (steps > steps[0]) & (steps <= steps[-1] / 2)
    if first.sum() < 2:
        return
    slope, height = np.polyfit(np.log(steps[first]), np.log(held[first]), 1)
    expected = float(np.exp(height + slope * np.log(steps[-1])))
    meaning = "held-out loss at the last step, by a power law through what was measured in the first half of the steps"
    figures.estimated("expected", expected, "nats/token", meaning)
    figures.measured("reached", float(held[-1]), "nats/token", "held-out loss at the last step, on the same rows")
    figures.estimated("reached_minus_expected", float(held[-1]) - expected, "nats/token", "loss reached minus loss expected")
