"""Look up metrics by id in the audits of a report.

An unknown id is a ConfigError that names the closest known ones.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provenlm.core.audit import Audit, Metric
from provenlm.core.errors import ConfigError

METRIC_ID = re.compile(r"(\S+?/[^\s/.]+)\.(\S+)")  # subject/stage.metric; the subject may belong to a family, as in music/vae
EMPTY_VALUE = "none"  # how an empty list or string of a configuration is displayed
REFERENCE_LEVELS = ("ceiling", "chance")  # suffixes of the best possible value of a metric and of its chance level
INTERVAL_ENDS = (".ci_low", ".ci_high")


@dataclass(frozen=True)
class AuditFile:
    """Describe the audit file of one stage: link path, digest and content.

    `audit` is None if the file does not exist.
    """

    subject: str
    stage: str
    path: str
    digest: str
    audit: Audit | None

    @property
    def name(self) -> str:
        """Return `subject/stage`."""
        return f"{self.subject}/{self.stage}"

    def require_audit(self) -> Audit:
        """Return the audit; raise LookupError if the file does not exist."""
        if self.audit is None:
            raise LookupError(f"{self.name}: no audit")
        return self.audit


@dataclass(frozen=True)
class AuditSet:
    """Hold all audit files that a report covers, in pipeline order."""

    files: tuple[AuditFile, ...]

    def file_of(self, metric_id: str, location: str) -> AuditFile:
        """Return the audit file that `metric_id` names.

        Raise ConfigError if the report does not cover it.
        """
        name, _ = split_metric_id(metric_id)
        for file in self.files:
            if file.name == name:
                return file
        names = [file.name for file in self.files]
        raise ConfigError(
            f"{location}: {metric_id!r}: this report does not cover {name!r}{suggest(name, names)}; covered: {', '.join(names)}"
        )

    def metric(self, metric_id: str, location: str) -> Metric | None:
        """Return the metric, or None if its audit does not exist.

        Raise ConfigError if the audit exists without the metric.
        """
        audit = self.file_of(metric_id, location).audit
        if audit is None:
            return None
        _, name = split_metric_id(metric_id)
        if name not in audit.metrics:
            hint = suggest(name, audit.metrics)
            raise ConfigError(f"{location}: the audit of {audit.subject}/{audit.stage} has no metric {name!r}{hint}")
        return audit.metrics[name]

    def not_applicable(self, metric_id: str, location: str) -> str | None:
        """Return why the audit calls the metric not applicable, or None.

        A recorded metric always applies.
        """
        audit = self.file_of(metric_id, location).audit
        return why_not_applicable(audit, split_metric_id(metric_id)[1]) if audit else None

    def may_contain(self, metric_id: str, location: str) -> bool:
        """Return whether the audit contains the metric or does not exist yet."""
        audit = self.file_of(metric_id, location).audit
        return audit is None or split_metric_id(metric_id)[1] in audit.metrics

    def error_of(self, metric_id: str, location: str) -> str | None:
        """Return the id of the `.error` metric that explains a missing metric, or None.

        It is on the same level as `metric_id` or above.
        """
        file = self.file_of(metric_id, location)
        errors = probe_errors(file)
        _, name = split_metric_id(metric_id)
        parent_ids = [f"{file.name}.{name[:index]}.error" for index, char in enumerate(name) if char == "."]
        exact_ids = [f"{file.name}.error", f"{file.name}.{name}.error"]
        return next((error for error in (*reversed(parent_ids), *exact_ids) if error in errors), None)

    def not_evaluated(self, metric_id: str, location: str) -> str | None:
        """Return why a metric has no value, by the nearest `.not_evaluated`, or None.

        A recorded metric has a value. A probe records such a text where a precondition of a criterion is not met.
        """
        audit = self.file_of(metric_id, location).audit
        _, name = split_metric_id(metric_id)
        if audit is None or name in audit.metrics:
            return None
        parts = name.split(".")
        texts = (".".join([*parts[:depth], "not_evaluated"]) for depth in range(len(parts), 0, -1))
        return next((str(audit.metrics[text].value) for text in texts if text in audit.metrics), None)

    def reference_levels(self, metric_id: str, location: str) -> dict[str, Metric]:
        """Return, by id, the best possible value and the chance level of a metric.

        For the ends of an interval, these are the levels of its metric.
        """
        file, (_, name) = self.file_of(metric_id, location), split_metric_id(metric_id)
        metrics = file.audit.metrics if file.audit else {}
        base_name = next((name.removesuffix(end) for end in INTERVAL_ENDS if name.endswith(end)), name)
        return {
            f"{file.name}.{level_name}": metrics[level_name]
            for level in REFERENCE_LEVELS
            if (level_name := f"{base_name}.{level}") in metrics
        }

    def missing(self) -> list[AuditFile]:
        """Return the audit files that do not exist."""
        return [file for file in self.files if file.audit is None]


def why_not_applicable(audit: Audit, name: str) -> str | None:
    """Return the reason that an audit gives for the metric `name` or a prefix of it.

    None if it gives none or has the metric.
    """
    parts = name.split(".")
    prefixes = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
    reasons = (audit.not_applicable[prefix] for prefix in prefixes if prefix in audit.not_applicable)
    return None if name in audit.metrics else next(reasons, None)


def probe_errors(file: AuditFile) -> Mapping[str, Metric]:
    """Return, by id, the `.error` metrics of an audit that hold exception texts."""
    metrics = file.audit.metrics if file.audit else {}
    return {
        f"{file.name}.{name}": metric
        for name, metric in metrics.items()
        if name.split(".")[-1] == "error" and isinstance(metric.value, str)
    }


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the closest candidates, or an empty string."""
    matches = difflib.get_close_matches(name, list(candidates))
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""


def split_metric_id(metric_id: str) -> tuple[str, str]:
    """Split `subject/stage.metric` into `subject/stage` and `metric`.

    Text that is no id is returned with an empty metric.
    """
    match = METRIC_ID.fullmatch(metric_id)
    return (match[1], match[2]) if match else (metric_id, "")


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every leaf of a nested value as (dotted key, displayed value)."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(_yaml_scalar, value)) or EMPTY_VALUE
    else:
        yield prefix, _yaml_scalar(value) or EMPTY_VALUE


def display_value(value: Any) -> str:
    """Format a setting on one line, as in params.yaml."""
    return ", ".join(f"{key} {item}".strip() for key, item in flatten(value))


def _yaml_scalar(value: Any) -> str:
    """Format a scalar as in params.yaml: null, true, false."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
