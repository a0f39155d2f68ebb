"""Evaluate the checks of a report.

No other module decides whether a result is good.

The status of a check is
  PASS            the metric was measured or counted and meets the expectation;
  ESTIMATED       the expectation is met, but the metric or one of its operands comes from a formula;
  FAIL            the expectation is not met, the value is no number, or the probe that measures it raised an exception;
  NOT RUN         the audit of the metric, or of an operand, does not exist, or says that a precondition was not met: not evaluated;
  NOT APPLICABLE  the audit states why the metric, or an operand, does not apply: the runner of the probes decides this from the
                  capabilities of the model and the conditions of the recipe.
The verdict is the worst status of all checks, in the order FAIL, NOT RUN, ESTIMATED, PASS; without checks it is NOT RUN.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Literal

from provenlm.core.audit import Metric, MetricRecorder
from provenlm.core.errors import ConfigError
from provenlm.reporting.evidence import AuditFile, AuditSet, probe_errors
from provenlm.reporting.thresholds import ChecksConfig, CheckSpec, Number, Threshold, parse_threshold

CheckOrigin = Literal["standard", "custom"]


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
    """Hold the result of one check; `reason` explains a status other than PASS.

    `expect` is what the page shows as expected. `operands` are the metrics that the threshold refers to; `reference_levels` the ceiling
    and the chance level of the metric, if its audit records them. `origin`: from the audits of the stages, or from params.yaml.
    """

    id: str
    status: CheckStatus
    reason: str
    expect: str
    metric: Metric | None = None
    operands: Mapping[str, Metric] = field(default_factory=dict)
    reference_levels: Mapping[str, Metric] = field(default_factory=dict)
    hint: str = ""
    origin: CheckOrigin = "standard"


def evaluate_checks(audits: AuditSet, checks: ChecksConfig, location: str) -> list[CheckResult]:
    """Evaluate standard checks, custom checks, and a check for each failed probe.

    Raise ConfigError, with `location`, for a custom check on a metric that its audit does not contain or with an unreachable threshold.
    """
    results = [result for file in audits.files for result in _standard_checks(audits, file)] if checks.standard else []
    results += [_evaluate_check(audits, spec, f"{location}.{spec.metric_id}", "custom") for spec in checks.custom]
    for file in audits.files:
        for metric_id, metric in probe_errors(file).items():
            hint = "fix the cause that the exception names, or the probe itself"
            results.append(
                CheckResult(metric_id, CheckStatus.FAIL, "the probe raised an exception", "no exception", metric, hint=hint)
            )
    return results


def _standard_checks(audits: AuditSet, file: AuditFile) -> list[CheckResult]:
    """Evaluate the checks that an audit brings with it.

    A missing audit is one check that was not run.
    """
    if file.audit is None:
        hint = f"run the stage: dvc repro {file.stage}@{file.subject}"
        return [CheckResult(f"{file.name}.audit", CheckStatus.NOT_RUN, "the audit does not exist", "audit exists", hint=hint)]
    results = []
    for name, check in file.audit.checks.items():
        metric_id, location = f"{file.name}.{name}", f"{file.path}: checks.{name}"
        threshold = parse_threshold(check.expect, location, metric_id, partial(_nearest, file, name))
        results.append(_evaluate_check(audits, CheckSpec(metric_id, threshold, check.hint), location, "standard"))
    return results


def _nearest(file: AuditFile, name: str, operand: str) -> str:
    """Return the full id of `operand`, searched from the scope of `name` outward."""
    audit, scopes = file.require_audit(), name.split(".")[:-1]
    candidates = [".".join([*scopes[:depth], operand]) for depth in range(len(scopes), -1, -1)]
    recorded = (candidate for candidate in candidates if candidate in audit.metrics)
    return f"{file.name}.{next(recorded, operand)}"


def overall_status(checks: Sequence[CheckResult]) -> CheckStatus:
    """Return the worst status of `checks`, or NOT RUN if there are none."""
    return min((check.status for check in checks), key=WORST_FIRST.index, default=CheckStatus.NOT_RUN)


def record_counts(checks: Sequence[CheckResult], recorder: MetricRecorder) -> None:
    """Record the verdict and the number of checks per status as metrics to cite."""
    descriptions = {
        CheckStatus.PASS: "Checks whose metric was measured or counted and meets the expectation",
        CheckStatus.FAIL: "Checks whose expectation is not met, whose value is no number, or whose probe raised an exception",
        CheckStatus.NOT_RUN: "Checks whose metric has no audit, or a precondition that is not met",
        CheckStatus.ESTIMATED: "Checks whose expectation is met by a formula, not by a measurement",
        CheckStatus.NOT_APPLICABLE: "Checks that do not apply to the subject",
    }
    recorder.add_count("verdict", overall_status(checks).value, "", "Verdict: the worst status of all checks")
    recorder.add_count("checks.total", len(checks), "checks", "Number of checks, including probes that raised an exception")
    recorder.add_count(
        "checks.standard",
        sum(check.origin == "standard" for check in checks),
        "checks",
        "Standard checks, which the audits of the stages bring with them, including probes that raised an exception",
    )
    recorder.add_count("checks.custom", sum(check.origin == "custom" for check in checks), "checks", "Checks that params.yaml adds")
    for status, description in descriptions.items():
        recorder.add_count(count_metric_name(status), sum(check.status is status for check in checks), "", description)


def count_metric_name(status: CheckStatus) -> str:
    """Return the metric that counts checks with a status: `checks.not_run`."""
    return f"checks.{status.name.lower()}"


def _evaluate_check(audits: AuditSet, spec: CheckSpec, location: str, origin: CheckOrigin) -> CheckResult:
    metric_ids = [spec.metric_id, *spec.threshold.dependencies()]

    def result(status: CheckStatus, reason: str, **fields: Any) -> CheckResult:
        return CheckResult(spec.metric_id, status, reason, spec.threshold.text, hint=spec.hint, origin=origin, **fields)

    if error := next((error_id for metric_id in metric_ids if (error_id := audits.error_of(metric_id, location))), None):
        return result(CheckStatus.FAIL, f"the probe raised an exception: {error}")
    if reason := next((why for metric_id in metric_ids if (why := audits.not_applicable(metric_id, location))), None):
        return result(CheckStatus.NOT_APPLICABLE, reason)
    if reason := next((why for metric_id in metric_ids if (why := audits.not_evaluated(metric_id, location))), None):
        return result(CheckStatus.NOT_RUN, f"not evaluated: {reason}")
    if origin == "standard" and (unknown := [metric_id for metric_id in metric_ids if not audits.may_contain(metric_id, location)]):
        return result(CheckStatus.FAIL, f"{unknown[0]} was not recorded")
    metrics_or_none = {metric_id: audits.metric(metric_id, location) for metric_id in metric_ids}
    metrics = {metric_id: metric for metric_id, metric in metrics_or_none.items() if metric is not None}
    levels = audits.reference_levels(spec.metric_id, location)
    status, reason = _status_of(spec, list(metrics_or_none), metrics)
    if (ceiling := _exceeded_ceiling(spec.threshold, metrics, levels)) is not None:
        if origin == "custom":
            raise ConfigError(
                f"{location}: must be at most the ceiling (best possible value) {ceiling}; got {spec.threshold.text!r}"
            )
        status, reason = CheckStatus.FAIL, f"the ceiling (best possible value) {ceiling} is too low for the expectation"
    operands = {metric_id: metric for metric_id, metric in metrics.items() if metric_id != spec.metric_id}
    return result(status, reason, metric=metrics_or_none[spec.metric_id], operands=operands, reference_levels=levels)


def _exceeded_ceiling(threshold: Threshold, metrics: Mapping[str, Metric], levels: Mapping[str, Metric]) -> Number | None:
    """Return the ceiling of the metric if it is too low for the threshold."""
    values = {metric_id: number for metric_id, metric in metrics.items() if (number := _finite_number(metric)) is not None}
    ceiling = next((_finite_number(metric) for metric_id, metric in levels.items() if metric_id.endswith(".ceiling")), None)
    complete = values.keys() >= set(threshold.dependencies())
    return ceiling if ceiling is not None and complete and not threshold.reachable(ceiling, values) else None


def _status_of(spec: CheckSpec, metric_ids: Sequence[str], metrics: Mapping[str, Metric]) -> tuple[CheckStatus, str]:
    if missing := [metric_id for metric_id in metric_ids if metric_id not in metrics]:
        return CheckStatus.NOT_RUN, f"no audit contains {missing[0]}"
    numbers = {metric_id: number for metric_id, metric in metrics.items() if (number := _finite_number(metric)) is not None}
    if not_numbers := [metric_id for metric_id in metrics if metric_id not in numbers]:
        return CheckStatus.FAIL, f"{not_numbers[0]} is not a number"
    if not spec.threshold.holds(numbers[spec.metric_id], numbers):
        return CheckStatus.FAIL, "expectation not met"
    if estimates := [metric_id for metric_id, metric in metrics.items() if metric.kind == "estimated"]:
        return CheckStatus.ESTIMATED, f"{estimates[0]} is an estimate"
    return CheckStatus.PASS, ""


def _finite_number(metric: Metric) -> Number | None:
    value = metric.value
    return value if not isinstance(value, str) and math.isfinite(value) else None
