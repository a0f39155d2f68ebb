"""Curves by hand, and what they are called."""

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.learning_curve import diagnose_fit, learning_curve_probe


def drawn(held, training=None):
    return [(10.0 * n, loss if training is None else training[n - 1], loss) for n, loss in enumerate(held, 1)]


def asked(ask, good, held, training=None):
    return ask(learning_curve_probe(drawn(held, training)), good)


def test_a_held_out_loss_that_rises_again_is_overfitting(ask, good):
    figures = asked(ask, good, [8, 5, 4, 4.5, 5], [8, 5, 3, 2, 1])
    assert (figures["reads"], figures["best_step"]) == ("overfitting", 30)
    assert figures["given_back"] == pytest.approx(1 / 4)
    assert figures["gap"] == 4


def test_a_held_out_loss_that_still_falls_is_underfitting(ask, good):
    figures = asked(ask, good, [8, 7, 6, 5, 4])
    assert (figures["reads"], figures["given_back"]) == ("underfitting", 0)
    assert figures["late_fall"] == pytest.approx(1 / 4)


def test_a_held_out_loss_that_levels_off_is_neither(ask, good):
    assert asked(ask, good, [8, 5, 4, 4, 3.99])["reads"] == "neither"


def test_a_loss_that_only_rises_is_overfitting(ask, good):
    assert asked(ask, good, [4, 5, 6, 7, 8])["reads"] == "overfitting"


@pytest.mark.parametrize(
    ("back", "late", "word"), [(0.03, 0.5, "overfitting"), (0.01, 0.06, "underfitting"), (0.01, 0.01, "neither")]
)
def test_overfitting_is_said_before_underfitting(back, late, word):
    assert diagnose_fit(back, late) == word


def test_a_power_law_is_foretold_exactly_and_marked_as_an_estimate(good):
    recorder = MetricRecorder()
    learning_curve_probe([(float(s), 1.0, 9.0 * s**-0.2) for s in (1, 10, 20, 30, 40, 50, 60, 80, 100)])(good, recorder)
    assert recorder.metrics["expected"].value == pytest.approx(recorder.metrics["reached"].value, rel=1e-9)
    assert recorder.metrics["expected"].kind == recorder.metrics["reached_minus_expected"].kind == "estimated"
    assert recorder.metrics["reached"].kind == "measured"


def test_a_loss_that_stops_falling_where_a_power_law_goes_on_is_seen_to_miss_it(good):
    recorder = MetricRecorder()
    learning_curve_probe([(float(s), 1.0, 9.0 * min(s, 50) ** -0.2) for s in (1, 10, 20, 30, 40, 50, 60, 80, 100)])(good, recorder)
    assert recorder.metrics["reached_minus_expected"].value == pytest.approx(9 * (50**-0.2 - 100**-0.2), rel=1e-6)


def test_of_a_training_without_held_out_losses_nothing_is_said(ask, good):
    assert ask(learning_curve_probe([]), good) == {"points": 0, "reads": "not applicable"}
