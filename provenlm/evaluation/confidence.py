"""Sums by document, or cases, in; a ratio with its 95 % confidence interval out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import MetricRecorder

Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class ConfidenceInterval:
    """A value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def ratio_interval(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> ConfidenceInterval:
    """Σ above / Σ below with a 95 % interval: normal, linearised, documents as the independent draws (Cochran 1977, chapter 6).

    Tokens of one document are not independent, so an interval over tokens would be too narrow. With fewer than two documents the
    interval is unbounded. ValueError if `below` sums to nothing.
    """
    total = float(denominators.sum())
    if total <= 0:
        raise ValueError("a ratio over documents needs a positive denominator")
    value, count = float(numerators.sum()) / total, len(denominators)
    if count < 2:
        return ConfidenceInterval(value, float("-inf"), float("inf"))
    error = float(np.sqrt(count / (count - 1) * np.square(numerators - value * denominators).sum())) / total
    return ConfidenceInterval(value, value - Z_95 * error, value + Z_95 * error)


def proportion_interval(num_correct: int, num_cases: int) -> ConfidenceInterval:
    """right / count with its 95 % interval (Wilson 1927), which stays within 0 and 1. ValueError without a count."""
    if num_cases < 1 or not 0 <= num_correct <= num_cases:
        raise ValueError(f"{num_correct} of {num_cases} is no share")
    value, square = num_correct / num_cases, Z_95**2
    center = (value + square / (2 * num_cases)) / (1 + square / num_cases)
    half_width = Z_95 / (1 + square / num_cases) * np.sqrt(value * (1 - value) / num_cases + square / (4 * num_cases**2))
    return ConfidenceInterval(value, float(center - half_width), float(center + half_width))


def record_proportion(
    metrics: MetricRecorder, name: str, num_correct: int, num_cases: int, ceiling: float, chance: float, description: str
) -> None:
    """A share of cases, its interval, its ceiling and its chance level: none of them says much without the others."""
    interval = proportion_interval(num_correct, num_cases)
    metrics.add_count(f"{name}.cases", num_cases, "cases", f"cases of: {description}")
    metrics.add_measurement(name, interval.value, "share", description)
    metrics.add_measurement(f"{name}.low", interval.low, "share", f"lower end of the 95 % interval (Wilson) of: {description}")
    metrics.add_measurement(f"{name}.high", interval.high, "share", f"upper end of the 95 % interval (Wilson) of: {description}")
    metrics.add_count(f"{name}.ceiling", ceiling, "share", f"most that can be reached of: {description}")
    metrics.add_count(f"{name}.chance", chance, "share", f"what a blind choice reaches of: {description}")


def record_accuracy(
    metrics: MetricRecorder, num_correct: NDArray[np.float64], num_targets: NDArray[np.float64], ceiling: float, vocab_size: int
) -> None:
    """The share of targets that were the most probable next token, from sums by document, beside the most and the least to expect."""
    interval = ratio_interval(num_correct, num_targets)
    metrics.add_measurement("accuracy", interval.value, "share", "targets that were the most probable next token")
    if len(num_targets) > 1:
        for name, limit in (("low", max(0.0, interval.low)), ("high", min(1.0, interval.high))):
            description = f"{'lower' if name == 'low' else 'upper'} end of its 95 % interval, documents as the independent draws"
            metrics.add_measurement(f"accuracy.{name}", limit, "share", description)
    description = "accuracy that a causal predictor can reach at most on these targets, by enumerating their prefixes"
    metrics.add_count("accuracy.ceiling", ceiling, "share", description)
    metrics.add_count("accuracy.chance", 1 / vocab_size, "share", "accuracy of drawing a token at random")
