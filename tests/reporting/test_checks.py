"""Judging: the status of a check, the verdict of many, and figures that nobody measured."""

import pytest

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.reporting.checks import CheckResult, CheckStatus, evaluate_checks, overall_status, record_counts
from provenlm.reporting.evidence import AuditSet
from provenlm.reporting.thresholds import parse_checks


def judged(sources, **rows: str) -> list[CheckResult]:
    """`judged([...], toy__train__loss="< 1")`: the figure's id with `__` for `/` and `.`."""
    named = {name.replace("__", "/", 1).replace("__", "."): {"bound": bound, "else": "advice"} for name, bound in rows.items()}
    return evaluate_checks(AuditSet(tuple(sources)), parse_checks(named, "w"), "w")


def only(checks: list[CheckResult]) -> tuple[str, str]:
    (check,) = checks
    return check.status.value, check.reason


def estimate(value: float) -> Metric:
    return Metric(value, "nats", "by a formula", "estimated")


@pytest.mark.parametrize(("value", "status"), [(1.9, "PASS"), (2.0, "FAIL")])
def test_a_measured_figure_passes_within_its_bound_and_fails_outside(source, value, status):
    assert only(judged([source("toy", "train", loss=value)], toy__train__loss="< 2"))[0] == status


def test_an_estimate_within_its_bound_is_never_a_pass(source):
    assert only(judged([source("toy", "train", loss=estimate(1))], toy__train__loss="< 2")) == (
        "ESTIMATED",
        "toy/train.loss is an estimate",
    )


def test_an_estimate_outside_its_bound_fails(source):
    assert only(judged([source("toy", "train", loss=estimate(3))], toy__train__loss="< 2"))[0] == "FAIL"


def test_a_measurement_below_an_estimated_limit_is_an_estimate(source):
    train = source("toy", "train", loss=1.0, expected=estimate(2))
    assert only(judged([train], toy__train__loss="< toy/train.expected")) == ("ESTIMATED", "toy/train.expected is an estimate")


def test_a_figure_whose_audit_is_not_there_is_not_run(absent):
    assert only(judged([absent("toy", "train")], toy__train__loss="< 2")) == ("NOT RUN", "no audit holds toy/train.loss")


def test_a_limit_whose_audit_is_not_there_is_not_run(source, absent):
    sources = [source("toy", "train", loss=1.0), absent("toy", "validate")]
    assert only(judged(sources, toy__train__loss="< toy/validate.bigram")) == ("NOT RUN", "no audit holds toy/validate.bigram")


def test_words_where_a_number_is_needed_fail(source):
    assert only(judged([source("toy", "train", loss="nan")], toy__train__loss="< 2")) == ("FAIL", "toy/train.loss is not a number")


def test_a_number_that_is_not_finite_fails(source):
    assert only(judged([source("toy", "train", loss=float("inf"))], toy__train__loss="> 2"))[0] == "FAIL"


def test_words_as_a_limit_fail(source):
    train = source("toy", "train", loss=1.0, bigram="not counted")
    assert only(judged([train], toy__train__loss="< toy/train.bigram")) == ("FAIL", "toy/train.bigram is not a number")


def test_a_stage_may_say_that_a_question_has_no_meaning_for_it(source):
    figure = Metric("not applicable", "", "a dense net has no experts", "counted")
    assert only(judged([source("toy", "train", load=figure)], toy__train__load="< 2")) == (
        "NOT APPLICABLE",
        "a dense net has no experts",
    )


def test_a_probe_that_raised_fails_though_nobody_set_a_bound_on_it(source):
    (check,) = judged([source("toy", "validate", leakage__error="ValueError: shape")])
    assert (check.id, check.status, check.threshold) == ("toy/validate.leakage.error", CheckStatus.FAIL, None)


def test_a_bound_on_what_a_raising_probe_should_have_measured_fails_and_names_the_error(source):
    checks = judged([source("toy", "validate", leakage__error="ValueError: shape")], toy__validate__leakage__moved="< 1")
    assert [check.status for check in checks] == [CheckStatus.FAIL, CheckStatus.FAIL]
    assert checks[0].reason == "the probe raised an exception: toy/validate.leakage.error"


def test_a_probe_that_raised_fails_even_a_figure_that_it_had_already_recorded(source):
    checks = judged([source("toy", "validate", leakage__error="E", leakage__moved=0.0)], toy__validate__leakage__moved="< 1")
    assert checks[0].status is CheckStatus.FAIL


def test_an_error_that_is_a_number_is_a_measurement(source):
    assert judged([source("toy", "validate", gradient__error=1e-9)]) == []


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (
            "toy/train.los",
            "w.toy/train.los: nobody measured 'los': the audit of toy/train has no such figure (did you mean 'loss'?)",
        ),
        (
            "toy/tran.loss",
            "w.toy/tran.loss: 'toy/tran.loss': this report covers no 'toy/tran' (did you mean 'toy/train'?); covered: toy/train",
        ),
    ],
)
def test_a_bound_on_a_figure_that_nobody_measured_is_an_error_with_the_closest_name(source, figure, message):
    with pytest.raises(ProvenlmError) as error:
        evaluate_checks(
            AuditSet((source("toy", "train", loss=1.0),)), parse_checks({figure: {"bound": "< 1", "else": "x"}}, "w"), "w"
        )
    assert str(error.value) == message


def test_a_limit_that_nobody_measured_is_an_error_too(source):
    with pytest.raises(ProvenlmError, match="nobody measured 'bigran'"):
        judged([source("toy", "train", loss=1.0, bigram=2.0)], toy__train__loss="< toy/train.bigran")


def checks_of(*statuses: CheckStatus) -> list[CheckResult]:
    return [CheckResult("toy/train.loss", status, "", None, None, {}, {}, "") for status in statuses]


P, F, N, E, A = CheckStatus.PASS, CheckStatus.FAIL, CheckStatus.NOT_RUN, CheckStatus.ESTIMATED, CheckStatus.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], N),
        ([P], P),
        ([P, P, A], P),
        ([A], A),
        ([P, N], N),
        ([P, E], E),
        ([E, N], N),
        ([P, N, F, E, A], F),
        ([P, P, P, F], F),
    ],
)
def test_the_verdict_is_the_worst_status(statuses, expected):
    assert overall_status(checks_of(*statuses)) is expected


def test_counts_and_verdict_become_figures(source):
    recorder = MetricRecorder()
    record_counts(checks_of(P, P, F, N), recorder)
    values = {name: figure.value for name, figure in recorder.metrics.items()}
    assert values == {
        "verdict": "FAIL", "checks.total": 4, "checks.pass": 2, "checks.fail": 1, "checks.not_run": 1,
        "checks.estimated": 0, "checks.not_applicable": 0,
    }  # fmt: skip


RECALL = {"right": 10, "right__ceiling": 10, "right__chance": 0.1}


@pytest.mark.parametrize("bound", [">= 11", "> 10", "== 12", "11..12", ">= 1.1 * toy/validate.right.ceiling"])
def test_a_bound_above_the_ceiling_is_refused(source, bound):
    with pytest.raises(ProvenlmError, match=r"^w\.toy/validate\.right: '.*' asks for more than can be reached, which is 10;"):
        judged([source("toy", "validate", **RECALL)], toy__validate__right=bound)


@pytest.mark.parametrize("bound", [">= 10", "== 10", "> 9", "<= 12", "9..12", ">= toy/validate.right.ceiling"])
def test_a_bound_that_the_ceiling_meets_is_judged(source, bound):
    assert only(judged([source("toy", "validate", **RECALL)], toy__validate__right=bound))[0] == "PASS"


def test_the_end_of_an_interval_has_the_ceiling_of_its_figure(source):
    with pytest.raises(ProvenlmError, match="more than can be reached"):
        judged([source("toy", "validate", right__low=9, **RECALL)], toy__validate__right__low="> 10")


def test_a_check_shows_ceiling_and_chance_beside_its_figure(source):
    (check,) = judged([source("toy", "validate", **RECALL)], toy__validate__right=">= 5")
    assert {name: figure.value for name, figure in check.reference_levels.items()} == {
        "toy/validate.right.ceiling": 10,
        "toy/validate.right.chance": 0.1,
    }
