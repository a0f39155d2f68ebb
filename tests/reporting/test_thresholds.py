"""Bounds: what they admit, and what a user is told who writes none."""

import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.reporting import thresholds
from provenlm.reporting.evidence import split_metric_id


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("180e6..220e6", [180_000_000, 200_000_000, 220_000_000], [179_999_999, 220_000_001, 222_994_944]),
        ("< 3", [2.999], [3, 3.1]),
        ("<= 3", [3], [3.0001]),
        ("> -1.5e-3", [0], [-0.0015, -1]),
        (">= 222_994_944", [222_994_944], [222_994_943]),
        ("== 0", [0, 0.0], [1, -1e-9]),
        (" <  3 ", [2], [3]),
    ],
)
def test_a_bound_admits_what_lies_inside_and_nothing_else(text, inside, outside):
    bound = thresholds.parse_threshold(text, "w")
    assert [bound.holds(value, {}) for value in inside + outside] == [True] * len(inside) + [False] * len(outside)


def test_a_count_in_exponent_form_is_exact():
    assert thresholds.parse_threshold("== 9_760_195_584e0", "w").holds(9_760_195_584, {})
    assert not thresholds.parse_threshold("== 1e16", "w").holds(10**16 + 1, {})


def test_a_bound_may_be_another_figure():
    bound = thresholds.parse_threshold("< r/validate.bigram.loss", "w")
    assert bound.dependencies() == ["r/validate.bigram.loss"]
    assert bound.holds(2, {"r/validate.bigram.loss": 3}) and not bound.holds(3, {"r/validate.bigram.loss": 3})


def test_a_bound_may_be_a_number_times_another_figure():
    bound = thresholds.parse_threshold("<= 0.5 * r/validate.loss", "w")
    assert bound.holds(1.5, {"r/validate.loss": 3}) and not bound.holds(1.6, {"r/validate.loss": 3})


def test_a_range_may_end_at_figures():
    bound = thresholds.parse_threshold("0..r/validate.ceiling", "w")
    assert bound.dependencies() == ["r/validate.ceiling"]
    assert bound.holds(10, {"r/validate.ceiling": 10}) and not bound.holds(11, {"r/validate.ceiling": 10})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "about 3",
        "<",
        "< nan",
        "< inf",
        "1..",
        "..2",
        "1..2..3",
        "< three",
        "=< 3",
        "!= 3",
        "< r/validate",
        "< 2 * 3",
        "< ٣",
    ],
)
def test_what_is_no_bound_is_refused_with_the_grammar(text):
    with pytest.raises(ProvenlmError) as error:
        thresholds.parse_threshold(text, "params.yaml: reports.p.bounds.r/train.loss.bound")
    assert str(error.value).startswith(f"params.yaml: reports.p.bounds.r/train.loss.bound: {text!r} is no bound")
    assert "write `a..b`, `< x`" in str(error.value)


def test_a_range_upside_down_is_refused_because_it_admits_nothing():
    with pytest.raises(ProvenlmError, match=r"^w: '2\.\.1' admits nothing: its lower end is above its upper$"):
        thresholds.parse_threshold("2..1", "w")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bound": "< 1"}, "params.yaml: reports.p.bounds.r/train.loss: missing key 'else'; known: bound, else"),
        ({"else": "x"}, "params.yaml: reports.p.bounds.r/train.loss: missing key 'bound'; known: bound, else"),
        (
            {"bound": "< 1", "otherwise": "x"},
            "params.yaml: reports.p.bounds.r/train.loss: unknown key 'otherwise'; known: bound, else",
        ),
    ],
)
def test_a_row_of_bounds_has_a_bound_and_an_else(row, message):
    with pytest.raises(ProvenlmError) as error:
        thresholds.parse_checks({"r/train.loss": row}, "params.yaml: reports.p.bounds")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("figure", "parts"),
    [
        ("toy/train.steps", ("toy/train", "steps")),
        ("music/vae/train.loss.last", ("music/vae/train", "loss.last")),
        ("v1.5/train.loss", ("v1.5/train", "loss")),
        ("toy/train.by/name", ("toy/train", "by/name")),
        ("steps", ("steps", "")),
    ],
)
def test_an_id_names_the_audit_and_the_figure_in_it(figure, parts):
    assert split_metric_id(figure) == parts
