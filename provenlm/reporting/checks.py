"""Evaluate the checks of a report; no other module decides whether a result is good.

The status of a check is
  PASS            the metric was measured or counted and meets the expectation;
  ESTIMATED       the expectation is met, but the metric or one of its operands comes from a formula;
  FAIL            the expectation is not met, the value is no number, or the probe that measures it raised an exception;
  NOT RUN         the audit of the metric, or of an operand, does not exist;
  NOT APPLICABLE  the value of the metric is "not applicable": the model or the recipe has no such property.
The verdict is the worst status of all checks, in the order FAIL, NOT RUN, ESTIMATED, PASS; without checks it is NOT RUN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.core.errors import ConfigError
from provenlm.reporting.evidence import AuditSet, probe_errors
from provenlm.reporting.thresholds import CheckSpec, Number, Threshold

NOT_APPLICABLE_VALUE = "not applicable"


class CheckStatus(StrEnum):
    """Name the result of a check, and of a report."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"
    ESTIMATED = "ESTIMATED"
    NOT_APPLICABLE = "NOT APPLICABLE"


WORST_FIRST = (CheckStatus.FAIL, CheckStatus.NOT_RUN, CheckStatus.ESTIMATED, CheckStatus.PASS, CheckStatus.NOT_APPLICABLE)


@dataclass(frozen=True)
class CheckResult:
    """Hold the result of one check; `reason` explains a status other than PASS, `threshold` is None for a failed probe.

    `operands` are the metrics that the threshold refers to; `reference_levels` the best possible value and the chance level of
    the metric, if its audit records them.
    """

    id: str
    status: CheckStatus
    reason: str
    threshold: Threshold | None
    metric: Metric | None
    operands: Mapping[str, Metric]
    reference_levels: Mapping[str, Metric]
    hint: str


def evaluate_checks(audits: AuditSet, specs: Mapping[str, CheckSpec], location: str) -> list[CheckResult]:
    """Evaluate each check in the order of `specs`, then add a failed check for each probe that raised an exception.

    Raise ConfigError, with `location`, for a metric that its audit does not contain and for a threshold that cannot be reached.
    """
    checks = [_evaluate_check(audits, metric_id, spec, f"{location}.{metric_id}") for metric_id, spec in specs.items()]
    return checks + [
        CheckResult(
            name,
            CheckStatus.FAIL,
            "the probe raised an exception",
            None,
            metric,
            {},
            {},
            "fix the cause that the exception names, or the probe itself",
        )
        for file in audits.files
        for name, metric in probe_errors(file).items()
    ]


def overall_status(checks: Sequence[CheckResult]) -> CheckStatus:
    """Return the worst status of `checks`, or NOT RUN if there are none."""
    return min((check.status for check in checks), key=WORST_FIRST.index, default=CheckStatus.NOT_RUN)


def record_counts(checks: Sequence[CheckResult], recorder: MetricRecorder) -> None:
    """Record the verdict and the number of checks per status as metrics, so that the page can cite them."""
    descriptions = {
        CheckStatus.PASS: "Checks whose metric was measured or counted and meets the expectation",
        CheckStatus.FAIL: "Checks whose expectation is not met, whose value is no number, or whose probe raised an exception",
        CheckStatus.NOT_RUN: "Checks whose metric has no audit",
        CheckStatus.ESTIMATED: "Checks whose expectation is met by a formula, not by a measurement",
        CheckStatus.NOT_APPLICABLE: "Checks that do not apply to the subject",
    }
    recorder.add_count("verdict", overall_status(checks).value, "", "Verdict: the worst status of all checks")
    recorder.add_count("checks.total", len(checks), "checks", "Number of checks, including probes that raised an exception")
    for status, description in descriptions.items():
        recorder.add_count(count_metric_name(status), sum(check.status is status for check in checks), "", description)


def count_metric_name(status: CheckStatus) -> str:
    """Return the name of the metric that counts the checks with a status, such as `checks.not_run`."""
    return f"checks.{status.name.lower()}"


def _evaluate_check(audits: AuditSet, checked_id: str, spec: CheckSpec, location: str) -> CheckResult:
    metric_ids = [checked_id, *spec.threshold.dependencies()]
    if error := next((error_id for metric_id in metric_ids if (error_id := audits.error_of(metric_id, location))), None):
        return CheckResult(
            checked_id, CheckStatus.FAIL, f"the probe raised an exception: {error}", spec.threshold, None, {}, {}, spec.hint
        )
    optional_metrics = {metric_id: audits.metric(metric_id, location) for metric_id in metric_ids}
    metrics = {metric_id: metric for metric_id, metric in optional_metrics.items() if metric is not None}
    status, reason = _status_of(checked_id, spec.threshold, optional_metrics, metrics)
    reference_levels = audits.reference_levels(checked_id, location)
    _refuse_unreachable(spec.threshold, metrics, reference_levels, location)
    operands = {metric_id: metric for metric_id, metric in metrics.items() if metric_id != checked_id}
    return CheckResult(
        checked_id, status, reason, spec.threshold, optional_metrics[checked_id], operands, reference_levels, spec.hint
    )


def _refuse_unreachable(
    threshold: Threshold, metrics: Mapping[str, Metric], reference_levels: Mapping[str, Metric], location: str
) -> None:
    """Raise ConfigError if the threshold is above the best possible value: such a check could never pass."""
    metric_values = {metric_id: number for metric_id, metric in metrics.items() if (number := _finite_number(metric)) is not None}
    max_value = next(
        (_finite_number(metric) for metric_id, metric in reference_levels.items() if metric_id.endswith(".ceiling")), None
    )
    if (
        max_value is not None
        and metric_values.keys() >= set(threshold.dependencies())
        and not threshold.reachable(max_value, metric_values)
    ):
        raise ConfigError(f"{location}: must be at most the ceiling (best possible value) {max_value}; got {threshold.text!r}")


def _status_of(
    checked_id: str, threshold: Threshold, optional_metrics: Mapping[str, Metric | None], metrics: Mapping[str, Metric]
) -> tuple[CheckStatus, str]:
    if missing := [metric_id for metric_id in optional_metrics if metric_id not in metrics]:
        return CheckStatus.NOT_RUN, f"no audit contains {missing[0]}"
    if any(metric.value == NOT_APPLICABLE_VALUE for metric in metrics.values()):
        return CheckStatus.NOT_APPLICABLE, next(
            metric.description for metric in metrics.values() if metric.value == NOT_APPLICABLE_VALUE
        )
    numbers = {metric_id: number for metric_id, metric in metrics.items() if (number := _finite_number(metric)) is not None}
    if not_numbers := [metric_id for metric_id in metrics if metric_id not in numbers]:
        return CheckStatus.FAIL, f"{not_numbers[0]} is not a number"
    if not threshold.holds(numbers[checked_id], numbers):
        return CheckStatus.FAIL, "expectation not met"
    if estimates := [metric_id for metric_id, metric in metrics.items() if metric.kind == "estimated"]:
        return CheckStatus.ESTIMATED, f"{estimates[0]} is an estimate"
    return CheckStatus.PASS, ""


def _finite_number(metric: Metric) -> Number | None:
    value = metric.value
    return value if not isinstance(value, str) and math.isfinite(value) else None
