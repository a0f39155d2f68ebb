"""Sums by document, or cases, in; a ratio with its 95 % confidence interval out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import Recorder

Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Interval:
    """Σ above / Σ below with a 95 % interval: normal, linearised, documents as the independent draws (Cochran 1977, chapter 6).

    Tokens of one document are not independent, so an interval over tokens would be too narrow. With fewer than two documents the
    interval is unbounded. ValueError if `below` sums to nothing.
    """
    total = float(below.sum())
    if total <= 0:
        raise ValueError("a ratio over documents needs a positive denominator")
    value, count = float(above.sum()) / total, len(below)
    if count < 2:
        return Interval(value, float("-inf"), float("inf"))
    error = float(np.sqrt(count / (count - 1) * np.square(above - value * below).sum())) / total
    return Interval(value, value - Z_95 * error, value + Z_95 * error)


def share(right: int, count: int) -> Interval:
    """right / count with its 95 % interval (Wilson 1927), which stays within 0 and 1. ValueError without a count."""
    if count < 1 or not 0 <= right <= count:
        raise ValueError(f"{right} of {count} is no share")
    value, square = right / count, Z_95**2
    middle = (value + square / (2 * count)) / (1 + square / count)
    reach = Z_95 / (1 + square / count) * np.sqrt(value * (1 - value) / count + square / (4 * count**2))
    return Interval(value, float(middle - reach), float(middle + reach))


def record_share(figures: Recorder, name: str, right: int, count: int, ceiling: float, chance: float, meaning: str) -> None:
    """A share of cases, its interval, its ceiling and its chance level: none of them says much without the others."""
    found = share(right, count)
    figures.counted(f"{name}.cases", count, "cases", f"cases of: {meaning}")
    figures.measured(name, found.value, "share", meaning)
    figures.measured(f"{name}.low", found.low, "share", f"lower end of the 95 % interval (Wilson) of: {meaning}")
    figures.measured(f"{name}.high", found.high, "share", f"upper end of the 95 % interval (Wilson) of: {meaning}")
    figures.counted(f"{name}.ceiling", ceiling, "share", f"most that can be reached of: {meaning}")
    figures.counted(f"{name}.chance", chance, "share", f"what a blind choice reaches of: {meaning}")


def record_accuracy(
    figures: Recorder, right: NDArray[np.float64], asked: NDArray[np.float64], ceiling: float, vocabulary: int
) -> None:
    """The share of targets that were the most probable next token, from sums by document, beside the most and the least to expect."""
    found = ratio(right, asked)
    figures.measured("accuracy", found.value, "share", "targets that were the most probable next token")
    if len(asked) > 1:
        for name, end in (("low", max(0.0, found.low)), ("high", min(1.0, found.high))):
            meaning = f"{'lower' if name == 'low' else 'upper'} end of its 95 % interval, documents as the independent draws"
            figures.measured(f"accuracy.{name}", end, "share", meaning)
    meaning = "accuracy that a causal predictor can reach at most on these targets, by enumerating their prefixes"
    figures.counted("accuracy.ceiling", ceiling, "share", meaning)
    figures.counted("accuracy.chance", 1 / vocabulary, "share", "accuracy of drawing a token at random")
