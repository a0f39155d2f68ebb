"""Compute and record 95 % confidence intervals of ratios and proportions."""

from dataclasses import dataclass

import numpy as np

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.arrays import FloatArray

Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class ConfidenceInterval:
    """Hold a value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def ratio_interval(numerators: FloatArray, denominators: FloatArray) -> ConfidenceInterval:
    """Compute sum(numerators) / sum(denominators) with its 95 % interval.

    The interval is normal and linearised (Cochran 1977, chapter 6). One entry per document: documents are the independent draws,
    because an interval over dependent tokens would be too narrow. With fewer than two documents the interval is unbounded.
    ValueError if the denominators sum to 0.
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
    """Compute num_correct / num_cases with its 95 % interval.

    The interval (Wilson 1927) stays within 0 and 1. ValueError without cases.
    """
    if num_cases < 1 or not 0 <= num_correct <= num_cases:
        raise ValueError(f"num_correct must be 0 to num_cases, and num_cases >= 1, got {num_correct} of {num_cases}")
    value, square = num_correct / num_cases, Z_95**2
    center = (value + square / (2 * num_cases)) / (1 + square / num_cases)
    half_width = Z_95 / (1 + square / num_cases) * np.sqrt(value * (1 - value) / num_cases + square / (4 * num_cases**2))
    return ConfidenceInterval(value, float(center - half_width), float(center + half_width))


def record_proportion(
    metrics: MetricRecorder, name: str, num_correct: int, num_cases: int, ceiling: float, chance: float, description: str
) -> None:
    """Record a fraction of cases with its interval, ceiling and chance level.

    The ceiling is the best possible value.
    """
    interval = proportion_interval(num_correct, num_cases)
    metrics.add_count(f"{name}.num_cases", num_cases, "cases", f"Number of cases of: {description}")
    metrics.add_measurement(name, interval.value, "fraction", description)
    metrics.add_measurement(
        f"{name}.ci_low", interval.low, "fraction", f"Lower end of the 95 % interval (Wilson) of: {description}"
    )
    metrics.add_measurement(
        f"{name}.ci_high", interval.high, "fraction", f"Upper end of the 95 % interval (Wilson) of: {description}"
    )
    metrics.add_count(f"{name}.ceiling", ceiling, "fraction", f"Best possible value of: {description}")
    metrics.add_count(f"{name}.chance", chance, "fraction", f"Value that random guessing reaches of: {description}")


def record_accuracy(
    metrics: MetricRecorder, num_correct: FloatArray, num_targets: FloatArray, ceiling: float, vocab_size: int, data_label: str
) -> None:
    """Record next-token accuracy with its interval, ceiling and chance level.

    `num_correct` and `num_targets` are sums by document; `data_label` names the targets in descriptions.
    """
    interval = ratio_interval(num_correct, num_targets)
    definition = f"fraction of {data_label} that were the most probable next token"
    metrics.add_measurement("accuracy", interval.value, "fraction", f"Accuracy: {definition}")
    if len(num_targets) > 1:
        suffix = f"end of the 95 % interval, over documents, of the {definition}"
        metrics.add_measurement("accuracy.ci_low", max(0.0, interval.low), "fraction", f"Lower {suffix}")
        metrics.add_measurement("accuracy.ci_high", min(1.0, interval.high), "fraction", f"Upper {suffix}")
    description = f"Highest accuracy of any causal predictor on {data_label}, by enumerating their prefixes"
    metrics.add_count("accuracy.ceiling", ceiling, "fraction", description)
    metrics.add_count("accuracy.chance", 1 / vocab_size, "fraction", f"Accuracy of a uniformly random token on {data_label}")
