"""Audits in, figures by id out; an id that no audit can hold is a `ProvenlmError` that names the closest ones."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provenlm.core.audit import Audit, Metric
from provenlm.core.errors import ProvenlmError

METRIC_ID = re.compile(r"(\S+?/[^\s/.]+)\.(\S+)")  # subject/stage.figure; the subject may be of a family, as in music/vae
EMPTY_VALUE = "none"  # an empty list or text in the settings


@dataclass(frozen=True)
class AuditFile:
    """Where figures come from: an audit, its file as the page links to it, and that file's digest. `audit` is None if not there."""

    subject: str
    stage: str
    path: str
    digest: str
    audit: Audit | None

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.stage}"

    def require_audit(self) -> Audit:
        """The audit; LookupError if it was not there."""
        if self.audit is None:
            raise LookupError(f"{self.name}: no audit")
        return self.audit


@dataclass(frozen=True)
class AuditSet:
    """Every source that a report covers, in the order in which the pipeline runs."""

    files: tuple[AuditFile, ...]

    def file_of(self, metric_id: str, location: str) -> AuditFile:
        """The source that a figure's id names. ProvenlmError if the report does not cover it."""
        name, _ = split_metric_id(metric_id)
        for file in self.files:
            if file.name == name:
                return file
        names = [file.name for file in self.files]
        raise ProvenlmError(
            f"{location}: {metric_id!r}: this report covers no {name!r}{suggest(name, names)}; covered: {', '.join(names)}"
        )

    def metric(self, metric_id: str, location: str) -> Metric | None:
        """The figure of that id; None if its audit is not there. ProvenlmError if the audit is there and does not hold it."""
        audit = self.file_of(metric_id, location).audit
        if audit is None:
            return None
        _, name = split_metric_id(metric_id)
        if name not in audit.metrics:
            hint = suggest(name, audit.metrics)
            raise ProvenlmError(
                f"{location}: nobody measured {name!r}: the audit of {audit.subject}/{audit.stage} has no such figure{hint}"
            )
        return audit.metrics[name]

    def error_of(self, metric_id: str, location: str) -> str | None:
        """The id of the error that kept `figure` from being measured: an `.error` beside or above it. None if there is none."""
        file = self.file_of(metric_id, location)
        errors = probe_errors(file)
        _, name = split_metric_id(metric_id)
        parent_ids = [f"{file.name}.{name[:index]}.error" for index, char in enumerate(name) if char == "."]
        exact_ids = [f"{file.name}.error", f"{file.name}.{name}.error"]
        return next((error for error in (*reversed(parent_ids), *exact_ids) if error in errors), None)

    def reference_levels(self, metric_id: str, location: str) -> dict[str, Metric]:
        """By id the ceiling and the chance level that its audit gives for `figure`, or for the figure whose interval it ends."""
        file, (_, name) = self.file_of(metric_id, location), split_metric_id(metric_id)
        metrics = file.audit.metrics if file.audit else {}
        base_name = name.removesuffix(".low").removesuffix(".high")
        return {
            f"{file.name}.{level_name}": metrics[level_name]
            for level in ("ceiling", "chance")
            if (level_name := f"{base_name}.{level}") in metrics
        }

    def missing(self) -> list[AuditFile]:
        return [file for file in self.files if file.audit is None]


def probe_errors(file: AuditFile) -> Mapping[str, Metric]:
    """The figures of a source that say, in words, what a probe raised; by id."""
    metrics = file.audit.metrics if file.audit else {}
    return {
        f"{file.name}.{name}": metric
        for name, metric in metrics.items()
        if name.split(".")[-1] == "error" and isinstance(metric.value, str)
    }


def suggest(name: str, candidates: Iterable[str]) -> str:
    """A hint that names what was probably meant, or nothing."""
    matches = difflib.get_close_matches(name, list(candidates))
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""


def split_metric_id(metric_id: str) -> tuple[str, str]:
    """The id `subject/stage.figure` as `subject/stage` and `figure`; what is no id is of no source."""
    match = METRIC_ID.fullmatch(metric_id)
    return (match[1], match[2]) if match else (metric_id, "")


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a nested value with its dotted key."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(_yaml_scalar, value)) or EMPTY_VALUE
    else:
        yield prefix, _yaml_scalar(value) or EMPTY_VALUE


def _yaml_scalar(value: Any) -> str:
    """As it would stand in params.yaml: null, true, false."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
