"""Test the status of a check, the verdict of many and checks on metrics that were not measured."""

import pytest

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.core.errors import ConfigError
from provenlm.reporting.checks import CheckResult, CheckStatus, evaluate_checks, overall_status, record_counts
from provenlm.reporting.evidence import AuditSet
from provenlm.reporting.thresholds import parse_checks


def evaluate(audit_files, **expectations: str) -> list[CheckResult]:
    """Evaluate checks such as `toy__train__loss="< 1"`: the metric id with `__` for `/` and `.`."""
    checks = {
        name.replace("__", "/", 1).replace("__", "."): {"expect": expect, "hint": "hint"} for name, expect in expectations.items()
    }
    return evaluate_checks(AuditSet(tuple(audit_files)), parse_checks(checks, "w"), "w")


def only(checks: list[CheckResult]) -> tuple[str, str]:
    (check,) = checks
    return check.status.value, check.reason


def estimate(value: float) -> Metric:
    return Metric(value, "nats", "from a formula", "estimated")


@pytest.mark.parametrize(("value", "status"), [(1.9, "PASS"), (2.0, "FAIL")])
def test_a_measured_metric_passes_if_its_threshold_holds_else_fails(make_audit_file, value, status):
    assert only(evaluate([make_audit_file("toy", "train", loss=value)], toy__train__loss="< 2"))[0] == status


def test_an_estimate_that_meets_its_threshold_is_never_a_pass(make_audit_file):
    assert only(evaluate([make_audit_file("toy", "train", loss=estimate(1))], toy__train__loss="< 2")) == (
        "ESTIMATED",
        "toy/train.loss is an estimate",
    )


def test_an_estimate_that_misses_its_threshold_fails(make_audit_file):
    assert only(evaluate([make_audit_file("toy", "train", loss=estimate(3))], toy__train__loss="< 2"))[0] == "FAIL"


def test_a_measurement_compared_with_an_estimate_is_an_estimate(make_audit_file):
    train = make_audit_file("toy", "train", loss=1.0, expected=estimate(2))
    assert only(evaluate([train], toy__train__loss="< toy/train.expected")) == ("ESTIMATED", "toy/train.expected is an estimate")


def test_a_metric_without_an_audit_is_not_run(make_missing_file):
    assert only(evaluate([make_missing_file("toy", "train")], toy__train__loss="< 2")) == (
        "NOT RUN",
        "no audit contains toy/train.loss",
    )


@pytest.mark.parametrize("origin", ["standard", "custom"])
def test_a_criterion_whose_precondition_is_not_met_is_not_run(make_audit_file, origin):
    checks = {"ttt.criterion.pass_at_2": (">= 0.25", "hint")} if origin == "standard" else {}
    metrics = {"ttt__criterion__not_evaluated": "no parameter was trainable", "ttt__pass_at_2": 0.5}
    file = make_audit_file("toy", "validate", checks=checks, **metrics)
    custom = {"toy/validate.ttt.criterion.pass_at_2": {"expect": ">= 0.25", "hint": "hint"}}
    results = evaluate_checks(AuditSet((file,)), parse_checks("standard" if checks else custom, "w"), "w")
    assert only(results) == ("NOT RUN", "not evaluated: no parameter was trainable")


def test_an_operand_without_an_audit_is_not_run(make_audit_file, make_missing_file):
    sources = [make_audit_file("toy", "train", loss=1.0), make_missing_file("toy", "validate")]
    assert only(evaluate(sources, toy__train__loss="< toy/validate.bigram")) == ("NOT RUN", "no audit contains toy/validate.bigram")


def test_text_instead_of_a_number_fails(make_audit_file):
    assert only(evaluate([make_audit_file("toy", "train", loss="nan")], toy__train__loss="< 2")) == (
        "FAIL",
        "toy/train.loss is not a number",
    )


def test_a_number_that_is_not_finite_fails(make_audit_file):
    assert only(evaluate([make_audit_file("toy", "train", loss=float("inf"))], toy__train__loss="> 2"))[0] == "FAIL"


def test_text_as_an_operand_fails(make_audit_file):
    train = make_audit_file("toy", "train", loss=1.0, bigram="not counted")
    assert only(evaluate([train], toy__train__loss="< toy/train.bigram")) == ("FAIL", "toy/train.bigram is not a number")


def test_a_metric_that_the_audit_calls_not_applicable_has_that_status(make_audit_file):
    train = make_audit_file("toy", "train", not_applicable={"experts": "a dense model has no experts"})
    assert only(evaluate([train], toy__train__experts__load="< 2")) == ("NOT APPLICABLE", "a dense model has no experts")


def test_the_value_not_applicable_of_a_metric_is_not_that_status(make_audit_file):
    metric = Metric("not applicable", "", "a stage that excuses itself", "counted")
    assert only(evaluate([make_audit_file("toy", "train", load=metric)], toy__train__load="< 2")) == (
        "FAIL",
        "toy/train.load is not a number",
    )


def test_a_recorded_metric_applies_although_its_scope_is_called_not_applicable(make_audit_file):
    train = make_audit_file("toy", "train", experts__load=3.0, not_applicable={"experts": "a dense model has no experts"})
    assert only(evaluate([train], toy__train__experts__load="< 2")) == ("FAIL", "expectation not met")


def standard(*audit_files, custom=()) -> list[CheckResult]:
    """Evaluate the standard checks of the audits, and custom checks."""
    return evaluate_checks(AuditSet(tuple(audit_files)), parse_checks(["standard", *custom], "w"), "w")


def test_standard_checks_come_from_the_audits(make_audit_file):
    train = make_audit_file("toy", "train", loss=1.0, checks={"loss": ("< 2", "train longer")})
    (check,) = standard(train)
    assert (check.id, check.status.value, check.expect, check.hint, check.origin) == (
        "toy/train.loss", "PASS", "< 2", "train longer", "standard",
    )  # fmt: skip


def test_a_report_without_the_word_standard_has_no_standard_checks(make_audit_file):
    train = make_audit_file("toy", "train", loss=3.0, checks={"loss": ("< 2", "train longer")})
    assert evaluate([train]) == []


def test_a_custom_check_tightens_a_standard_one(make_audit_file):
    train = make_audit_file("toy", "train", loss=1.5, checks={"loss": ("< 2", "")})
    checks = standard(train, custom=[{"toy/train.loss": {"expect": "< 1", "hint": "x"}}])
    assert [(check.id, check.status.value, check.origin) for check in checks] == [
        ("toy/train.loss", "PASS", "standard"),
        ("toy/train.loss", "FAIL", "custom"),
    ]


def test_a_missing_audit_is_one_standard_check_that_was_not_run(make_missing_file):
    (check,) = standard(make_missing_file("toy", "train"))
    assert (check.id, check.status.value, check.expect) == ("toy/train.audit", "NOT RUN", "audit exists")
    assert check.hint == "run the stage: dvc repro train@toy"


def test_a_standard_check_on_a_metric_that_was_not_recorded_fails(make_audit_file):
    assert only(standard(make_audit_file("toy", "train", checks={"loss": ("< 2", "")}))) == (
        "FAIL",
        "toy/train.loss was not recorded",
    )


@pytest.mark.parametrize(
    ("expect", "status"),
    [
        ("> accuracy.chance", "PASS"),  # tasks.brackets.accuracy.chance
        ("> 2 * accuracy.chance", "FAIL"),
        ("> brackets.accuracy.chance", "PASS"),
        ("> chance", "PASS"),  # tasks.brackets.accuracy.chance, not the metric chance of the audit
        ("> level", "FAIL"),
        ("> toy/validate.tasks.brackets.accuracy.chance", "PASS"),
        ("> accuracy.chanse", "FAIL"),
    ],
)
def test_an_operand_of_a_standard_check_is_looked_up_from_the_inner_scope_outward(make_audit_file, expect, status):
    validate = make_audit_file(
        "toy", "validate", tasks__brackets__accuracy__ci_low=0.5, tasks__brackets__accuracy__chance=0.3, chance=0.9, level=0.9,
        checks={"tasks.brackets.accuracy.ci_low": (expect, "")},
    )  # fmt: skip
    assert only(standard(validate))[0] == status


def test_a_standard_check_above_the_ceiling_fails_instead_of_stopping_the_report(make_audit_file):
    validate = make_audit_file("toy", "validate", right=1.0, right__ceiling=2.0, checks={"right": ("> 2", "")})
    assert only(standard(validate)) == ("FAIL", "the ceiling (best possible value) 2.0 is too low for the expectation")


def test_a_standard_check_that_does_not_apply_gives_the_reason(make_audit_file):
    reason = "the model has no next_token_logits"
    validate = make_audit_file("toy", "validate", checks={"val.loss": ("< 2", "")}, not_applicable={"val": reason})
    assert only(standard(validate)) == ("NOT APPLICABLE", reason)


def test_a_check_whose_operand_does_not_apply_does_not_apply(make_audit_file):
    validate = make_audit_file("toy", "validate", loss=1.0, not_applicable={"bigram": "no validation split"})
    assert only(evaluate([validate], toy__validate__loss="< toy/validate.bigram.loss")) == ("NOT APPLICABLE", "no validation split")


def test_a_probe_that_raised_fails_without_a_check_on_it(make_audit_file):
    (check,) = evaluate([make_audit_file("toy", "validate", leakage__error="ValueError: shape")])
    assert (check.id, check.status, check.expect) == ("toy/validate.leakage.error", CheckStatus.FAIL, "no exception")


def test_a_check_on_a_metric_of_a_failed_probe_names_the_error(make_audit_file):
    checks = evaluate([make_audit_file("toy", "validate", leakage__error="ValueError: shape")], toy__validate__leakage__moved="< 1")
    assert [check.status for check in checks] == [CheckStatus.FAIL, CheckStatus.FAIL]
    assert checks[0].reason == "the probe raised an exception: toy/validate.leakage.error"


def test_a_probe_that_raised_fails_even_metrics_it_had_recorded(make_audit_file):
    checks = evaluate(
        [make_audit_file("toy", "validate", leakage__error="E", leakage__moved=0.0)], toy__validate__leakage__moved="< 1"
    )
    assert checks[0].status is CheckStatus.FAIL


def test_an_error_metric_that_is_a_number_is_a_measurement(make_audit_file):
    assert evaluate([make_audit_file("toy", "validate", gradient__error=1e-9)]) == []


@pytest.mark.parametrize(
    ("metric_id", "message"),
    [
        (
            "toy/train.los",
            "w.toy/train.los: the audit of toy/train has no metric 'los' (did you mean 'loss'?)",
        ),
        (
            "toy/tran.loss",
            "w.toy/tran.loss: 'toy/tran.loss': this report does not cover 'toy/tran' (did you mean 'toy/train'?); covered: toy/train",
        ),
    ],
)
def test_a_check_on_an_unknown_metric_names_the_closest_one(make_audit_file, metric_id, message):
    with pytest.raises(ConfigError) as error:
        evaluate_checks(
            AuditSet((make_audit_file("toy", "train", loss=1.0),)),
            parse_checks({metric_id: {"expect": "< 1", "hint": "x"}}, "w"),
            "w",
        )
    assert str(error.value) == message


def test_an_unknown_operand_names_the_closest_metric(make_audit_file):
    with pytest.raises(ConfigError, match="has no metric 'bigran'"):
        evaluate([make_audit_file("toy", "train", loss=1.0, bigram=2.0)], toy__train__loss="< toy/train.bigran")


def checks_of(*statuses: CheckStatus) -> list[CheckResult]:
    return [CheckResult("toy/train.loss", status, "", "< 1") for status in statuses]


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


def test_counts_and_verdict_become_metrics(make_audit_file):
    recorder = MetricRecorder()
    record_counts(checks_of(P, P, F, N), recorder)
    values = {name: metric.value for name, metric in recorder.metrics.items()}
    assert values == {
        "verdict": "FAIL", "checks.total": 4, "checks.standard": 4, "checks.custom": 0, "checks.pass": 2, "checks.fail": 1, "checks.not_run": 1,
        "checks.estimated": 0, "checks.not_applicable": 0,
    }  # fmt: skip


COMPLETION = {"num_correct": 10, "num_correct__ceiling": 10, "num_correct__chance": 0.1}


@pytest.mark.parametrize("expect", [">= 11", "> 10", "== 12", "11..12", ">= 1.1 * toy/validate.num_correct.ceiling"])
def test_a_threshold_above_the_ceiling_is_refused(make_audit_file, expect):
    with pytest.raises(
        ConfigError, match=r"^w\.toy/validate\.num_correct: must be at most the ceiling \(best possible value\) 10; got '.*'$"
    ):
        evaluate([make_audit_file("toy", "validate", **COMPLETION)], toy__validate__num_correct=expect)


@pytest.mark.parametrize("expect", [">= 10", "== 10", "> 9", "<= 12", "9..12", ">= toy/validate.num_correct.ceiling"])
def test_a_threshold_that_the_ceiling_meets_is_evaluated(make_audit_file, expect):
    assert only(evaluate([make_audit_file("toy", "validate", **COMPLETION)], toy__validate__num_correct=expect))[0] == "PASS"


def test_an_interval_end_has_the_ceiling_of_its_metric(make_audit_file):
    with pytest.raises(ConfigError, match="must be at most the ceiling"):
        evaluate(
            [make_audit_file("toy", "validate", num_correct__ci_low=9, **COMPLETION)], toy__validate__num_correct__ci_low="> 10"
        )


def test_a_check_result_holds_ceiling_and_chance_level(make_audit_file):
    (check,) = evaluate([make_audit_file("toy", "validate", **COMPLETION)], toy__validate__num_correct=">= 5")
    assert {name: metric.value for name, metric in check.reference_levels.items()} == {
        "toy/validate.num_correct.ceiling": 10,
        "toy/validate.num_correct.chance": 0.1,
    }
