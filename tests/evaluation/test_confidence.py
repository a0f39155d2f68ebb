"""Test confidence intervals of ratios and proportions."""

import math

import numpy as np
import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.confidence import proportion_interval, ratio_interval, record_proportion


def test_the_ratio_is_of_sums_and_not_of_documents_ratios():
    assert ratio_interval(np.array([2.0, 30.0]), np.array([1.0, 10.0])).value == 32 / 11


def test_the_interval_of_equally_long_documents_is_that_of_their_mean():
    means = np.array([1.0, 2.0, 4.0, 5.0])
    interval = ratio_interval(means * 10, np.full(4, 10.0))
    assert interval.high - interval.value == pytest.approx(1.959964 * means.std(ddof=1) / 2)
    assert interval.value - interval.low == pytest.approx(interval.high - interval.value)


def test_nine_in_ten_intervals_and_more_hold_the_truth():
    generator = np.random.default_rng(0)
    num_hits = 0
    for _ in range(400):
        sizes = generator.integers(5, 50, 30).astype(float)
        interval = ratio_interval(sizes * generator.normal(2, 0.5, 30), sizes)
        num_hits += interval.low <= 2 <= interval.high
    assert 0.9 < num_hits / 400 < 0.98


def test_one_document_says_nothing_of_the_others():
    interval = ratio_interval(np.array([3.0]), np.array([2.0]))
    assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_a_ratio_to_nothing_is_refused():
    with pytest.raises(ValueError, match="positive denominator"):
        ratio_interval(np.zeros(2), np.zeros(2))


def test_none_of_five_has_an_upper_end_of_43_percent():
    """Wilson (1927): z² / (n + z²)."""
    assert proportion_interval(0, 5).high == pytest.approx(1.959964**2 / (5 + 1.959964**2))
    assert proportion_interval(0, 5).low == pytest.approx(0, abs=1e-12)


def test_a_proportion_is_recorded_with_ceiling_and_chance():
    recorder = MetricRecorder()
    record_proportion(recorder, "accuracy", 3, 4, 1.0, 0.5, "cases got right")
    assert set(recorder.metrics) == {
        f"accuracy{suffix}" for suffix in ("", ".num_cases", ".ci_low", ".ci_high", ".ceiling", ".chance")
    }
