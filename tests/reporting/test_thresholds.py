"""Test which values a threshold accepts and which messages a malformed check gives."""

import pytest

from provenlm.core.errors import ConfigError
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
def test_a_threshold_holds_for_values_inside_and_for_no_others(text, inside, outside):
    threshold = thresholds.parse_threshold(text, "w")
    assert [threshold.holds(value, {}) for value in inside + outside] == [True] * len(inside) + [False] * len(outside)


def test_a_count_in_exponent_form_is_exact():
    assert thresholds.parse_threshold("== 9_760_195_584e0", "w").holds(9_760_195_584, {})
    assert not thresholds.parse_threshold("== 1e16", "w").holds(10**16 + 1, {})


def test_a_threshold_may_refer_to_another_metric():
    threshold = thresholds.parse_threshold("< r/validate.bigram.loss", "w")
    assert threshold.dependencies() == ["r/validate.bigram.loss"]
    assert threshold.holds(2, {"r/validate.bigram.loss": 3}) and not threshold.holds(3, {"r/validate.bigram.loss": 3})


def test_a_threshold_may_be_a_number_times_another_metric():
    threshold = thresholds.parse_threshold("<= 0.5 * r/validate.loss", "w")
    assert threshold.holds(1.5, {"r/validate.loss": 3}) and not threshold.holds(1.6, {"r/validate.loss": 3})


def test_a_range_may_end_at_a_metric():
    threshold = thresholds.parse_threshold("0..r/validate.max", "w")
    assert threshold.dependencies() == ["r/validate.max"]
    assert threshold.holds(10, {"r/validate.max": 10}) and not threshold.holds(11, {"r/validate.max": 10})


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
def test_a_malformed_threshold_is_refused_with_the_grammar(text):
    with pytest.raises(ConfigError) as error:
        thresholds.parse_threshold(text, "params.yaml: reports.p.checks.r/train.loss.expect")
    assert str(error.value).startswith("params.yaml: reports.p.checks.r/train.loss.expect: must be `a..b`, `< x`")
    assert f"; got {text!r}" in str(error.value)


def test_a_range_whose_ends_are_swapped_is_refused():
    with pytest.raises(ConfigError, match=r"^w: the lower end of a range must be at most its upper end, got '2\.\.1'$"):
        thresholds.parse_threshold("2..1", "w")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"expect": "< 1"}, "params.yaml: reports.p.checks.r/train.loss: missing key 'hint'; required: expect, hint"),
        ({"hint": "x"}, "params.yaml: reports.p.checks.r/train.loss: missing key 'expect'; required: expect, hint"),
        (
            {"expect": "< 1", "advice": "x"},
            "params.yaml: reports.p.checks.r/train.loss: unknown key 'advice'; known: expect, hint",
        ),
    ],
)
def test_a_check_needs_the_keys_expect_and_hint(entry, message):
    with pytest.raises(ConfigError) as error:
        thresholds.parse_checks({"r/train.loss": entry}, "params.yaml: reports.p.checks")
    assert str(error.value) == message


def test_checks_may_be_standard_custom_or_both():
    custom = {"r/train.loss": {"expect": "< 1", "hint": "x"}}
    parsed = [thresholds.parse_checks(value, "w") for value in ("standard", custom, ["standard", custom, custom], ["standard"])]
    assert [(checks.standard, len(checks.custom)) for checks in parsed] == [(True, 0), (False, 1), (True, 2), (True, 0)]


@pytest.mark.parametrize("value", [None, "default", 3, ["standard", None], [["standard"]]])
def test_other_values_of_checks_are_refused(value):
    with pytest.raises(
        ConfigError, match="^w: must be 'standard', a mapping of metric id to expect and hint, or a list of these, got"
    ):
        thresholds.parse_checks(value, "w")


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ({"loss": {"expect": "< 1", "hint": ""}}, "w.loss: must be a metric id such as my_recipe/validate.val.loss, got 'loss'"),
        ({"r/train.loss": None}, "w.r/train.loss: must be a mapping with the keys expect, hint, got None"),
        ({"r/train.loss": {"expect": 3, "hint": ""}}, "w.r/train.loss.expect: must be text, got 3"),
    ],
)
def test_a_malformed_check_is_refused_with_its_location(checks, message):
    with pytest.raises(ConfigError) as error:
        thresholds.parse_checks(checks, "w")
    assert str(error.value) == message


@pytest.mark.parametrize("expect", ["<= r/train.loss", "0..r/train.loss", "< 2 * r/train.loss"])
def test_a_check_that_compares_a_metric_with_itself_is_refused(expect):
    with pytest.raises(ConfigError, match="must not compare a metric with itself"):
        thresholds.parse_checks({"r/train.loss": {"expect": expect, "hint": ""}}, "w")


@pytest.mark.parametrize(
    ("metric_id", "parts"),
    [
        ("toy/train.steps", ("toy/train", "steps")),
        ("music/vae/train.loss.last", ("music/vae/train", "loss.last")),
        ("v1.5/train.loss", ("v1.5/train", "loss")),
        ("toy/train.by/name", ("toy/train", "by/name")),
        ("steps", ("steps", "")),
    ],
)
def test_a_metric_id_names_the_audit_and_the_metric(metric_id, parts):
    assert split_metric_id(metric_id) == parts
