"""Evidence and bounds in; checks, each with a status, and one verdict out. The only place where anything is judged.

A check reads
  PASS            the figure was measured or counted, and its bound admits it;
  ESTIMATED       the bound admits it, but the figure or its limit comes from a formula;
  FAIL            the bound does not admit it, it is no number, or the probe that should have measured it raised an exception;
  NOT RUN         the audit of the figure, or of its limit, is not there;
  NOT APPLICABLE  the figure's value is the words "not applicable": its stage says that the question has no meaning for it.
The verdict is the worst of its checks, in the order FAIL, NOT RUN, ESTIMATED, PASS; without any check it reads NOT RUN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.reporting.evidence import AuditSet, probe_errors
from provenlm.reporting.thresholds import CheckSpec, Number, Threshold

NOT_APPLICABLE_VALUE = "not applicable"


class CheckStatus(StrEnum):
    """What became of a check, and of a report."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"
    ESTIMATED = "ESTIMATED"
    NOT_APPLICABLE = "NOT APPLICABLE"


WORST_FIRST = (CheckStatus.FAIL, CheckStatus.NOT_RUN, CheckStatus.ESTIMATED, CheckStatus.PASS, CheckStatus.NOT_APPLICABLE)


@dataclass(frozen=True)
class CheckResult:
    """One figure against its bound. `reason` says why it is not a plain PASS; `bound` is None for a probe that raised.

    `limits` are the figures that the bound names, `beside` the ceiling and the chance level of the figure, where it has them.
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
    """A check for each bound, in their order, then one for each probe that raised.

    ProvenlmError, beginning with `where`, for a bound on a figure that its audit does not hold, and for one above its figure's ceiling.
    """
    checks = [_evaluate_check(audits, metric, spec, f"{location}.{metric}") for metric, spec in specs.items()]
    return checks + [
        CheckResult(
            name,
            CheckStatus.FAIL,
            "the probe raised an exception",
            None,
            metric,
            {},
            {},
            "mend what the probe complains of, or the probe",
        )
        for file in audits.files
        for name, metric in probe_errors(file).items()
    ]


def overall_status(checks: Sequence[CheckResult]) -> CheckStatus:
    """The worst status of `checks`; NOT RUN if there are none."""
    return min((check.status for check in checks), key=WORST_FIRST.index, default=CheckStatus.NOT_RUN)


def record_counts(checks: Sequence[CheckResult], recorder: MetricRecorder) -> None:
    """The verdict and the counts of each status as figures, so that the page can cite them like any other."""
    descriptions = {
        CheckStatus.PASS: "measured or counted, and within the bound",
        CheckStatus.FAIL: "outside the bound, not a number, or not measured because the probe raised an exception",
        CheckStatus.NOT_RUN: "the audit that holds the figure is not there",
        CheckStatus.ESTIMATED: "within the bound, by a formula and not by a measurement",
        CheckStatus.NOT_APPLICABLE: "the question has no meaning for this subject",
    }
    recorder.add_count("verdict", overall_status(checks).value, "", "the worst status of all checks")
    recorder.add_count("checks.total", len(checks), "checks", "bounds, and probes that raised")
    for status, description in descriptions.items():
        recorder.add_count(count_metric_name(status), sum(check.status is status for check in checks), "", description)


def count_metric_name(status: CheckStatus) -> str:
    """The figure that counts the checks of a status: `checks.not_run`."""
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
    """ProvenlmError if the bound asks for more than the figure's ceiling: a check that nothing can pass judges the bound alone."""
    metric_values = {metric_id: number for metric_id, metric in metrics.items() if (number := _finite_number(metric)) is not None}
    max_value = next(
        (_finite_number(metric) for metric_id, metric in reference_levels.items() if metric_id.endswith(".ceiling")), None
    )
    if (
        max_value is not None
        and metric_values.keys() >= set(threshold.dependencies())
        and not threshold.reachable(max_value, metric_values)
    ):
        raise ProvenlmError(
            f"{location}: {threshold.text!r} asks for more than can be reached, which is {max_value}; the ceiling itself would be right"
        )


def _status_of(
    checked_id: str, threshold: Threshold, optional_metrics: Mapping[str, Metric | None], metrics: Mapping[str, Metric]
) -> tuple[CheckStatus, str]:
    if missing := [metric_id for metric_id in optional_metrics if metric_id not in metrics]:
        return CheckStatus.NOT_RUN, f"no audit holds {missing[0]}"
    if any(metric.value == NOT_APPLICABLE_VALUE for metric in metrics.values()):
        return CheckStatus.NOT_APPLICABLE, next(
            metric.description for metric in metrics.values() if metric.value == NOT_APPLICABLE_VALUE
        )
    numbers = {metric_id: number for metric_id, metric in metrics.items() if (number := _finite_number(metric)) is not None}
    if not_numbers := [metric_id for metric_id in metrics if metric_id not in numbers]:
        return CheckStatus.FAIL, f"{not_numbers[0]} is not a number"
    if not threshold.holds(numbers[checked_id], numbers):
        return CheckStatus.FAIL, "outside the bound"
    if estimates := [metric_id for metric_id, metric in metrics.items() if metric.kind == "estimated"]:
        return CheckStatus.ESTIMATED, f"{estimates[0]} is an estimate"
    return CheckStatus.PASS, ""


def _finite_number(metric: Metric) -> Number | None:
    value = metric.value
    return value if not isinstance(value, str) and math.isfinite(value) else None
