"""Write and read audits.

An audit holds the metrics that one stage recorded for one subject, with their provenance.

The JSON keeps `metrics` as a flat mapping of name to value and everything else in lists, because `dvc metrics show` prints every
leaf of a metrics file that is not in a list.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from provenlm.core import io
from provenlm.core.errors import DataError
from provenlm.core.examples import Example

MetricKind = Literal["measured", "counted", "estimated"]
MetricValue = int | float | str
NOT_APPLICABLE = "not applicable"  # what is shown instead of a value that a model or recipe cannot have


@dataclass(frozen=True, slots=True)
class Metric:
    """Hold one number or word with its unit, its description and how it was obtained.

    Kinds: `measured` by a clock, the kernel or an evaluation; `counted` exactly; `estimated` by a formula.
    """

    value: MetricValue
    unit: str
    description: str
    kind: MetricKind


@dataclass(frozen=True, slots=True)
class PlotSeries:
    """Hold the data of one plot.

    `line`: each of `y_values` shares `x_values`. `hist`: counts of bins that begin at `x_values`; one more x than y closes the last
    bin. `heatmap`: each of `y_values` is a square matrix of fractions in row-major order with as many rows and columns as x.
    """

    name: str
    kind: Literal["line", "hist", "heatmap"]
    description: str
    x_label: str
    y_label: str
    x_values: Sequence[float]
    y_values: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class AuditTable:
    """Hold rows for display, such as samples, sources or model parts.

    Cells are numbers or plain text, never markup.
    """

    name: str
    description: str
    columns: Sequence[str]
    rows: Sequence[Sequence[MetricValue]]


@dataclass(frozen=True, slots=True)
class Check:
    """State what a metric must be and what to do if it is not.

    `expect` is a threshold expression such as "< 1e-3".
    """

    expect: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Audit:
    """Hold what one stage recorded for one subject, with its provenance.

    `checks`: standard checks by metric name. `not_applicable`: the reason by metric name or prefix. `config`: the resolved settings as
    (section, dotted key, value, whether it is the default).
    """

    subject: str
    stage: str
    metrics: Mapping[str, Metric]
    series: Sequence[PlotSeries]
    tables: Sequence[AuditTable]
    provenance: Mapping[str, Any]
    checks: Mapping[str, Check] = field(default_factory=dict)
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    config: Sequence[tuple[str, str, Any, bool]] = ()


@dataclass
class MetricRecorder:
    """Collect metrics, plots, tables and examples in the order of recording."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    series: list[PlotSeries] = field(default_factory=list)
    tables: list[AuditTable] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)  # files beside the audit, which do not become a part of it
    scoped: bool = False

    def add_count(self, name: str, value: MetricValue, unit: str, description: str) -> None:
        """Record an exact count."""
        self.add_metric(name, Metric(value, unit, description, "counted"))

    def add_measurement(self, name: str, value: MetricValue, unit: str, description: str) -> None:
        """Record a measured value."""
        self.add_metric(name, Metric(value, unit, description, "measured"))

    def add_estimate(self, name: str, value: MetricValue, unit: str, description: str) -> None:
        """Record a value computed by a formula."""
        self.add_metric(name, Metric(value, unit, description, "estimated"))

    def add_metric(self, name: str, metric: Metric) -> None:
        """Record `metric`.

        Raises ValueError if a metric of that name was recorded before, or for the value NOT_APPLICABLE.
        """
        if metric.value == NOT_APPLICABLE:
            raise ValueError(f"metric {name!r} must have a value: only the runner of the probes decides what does not apply")
        if name in self.metrics:
            raise ValueError(f"metric {name!r} recorded twice")
        self.metrics[name] = metric

    def add_check(self, name: str, expect: str, hint: str = "") -> None:
        """Record a standard check: what the metric `name` must be.

        Raises ValueError if it has one already.
        """
        if name in self.checks:
            raise ValueError(f"check {name!r} recorded twice")
        self.checks[name] = Check(expect, hint)

    def add_not_applicable(self, prefix: str, reason: str) -> None:
        """Record why the metrics below `prefix` do not apply.

        Raises TypeError in a scope: a probe cannot excuse itself.
        """
        if self.scoped:
            raise TypeError("add_not_applicable: only the runner of the probes may call it, got a call from a probe")
        self.not_applicable[prefix] = reason

    @contextmanager
    def scope(self, prefix: str) -> Iterator["MetricRecorder"]:
        """Yield a recorder whose results are added here under a prefix.

        Its metrics, plots and tables become `prefix.NAME` at the end of the block; its examples keep their names.
        """
        inner = MetricRecorder(scoped=True)
        yield inner
        for name, metric in inner.metrics.items():
            self.add_metric(f"{prefix}.{name}", metric)
        self.series += [replace(series, name=f"{prefix}.{series.name}") for series in inner.series]
        self.tables += [replace(table, name=f"{prefix}.{table.name}") for table in inner.tables]
        self.examples += inner.examples
        for name, check in inner.checks.items():
            self.add_check(f"{prefix}.{name}", check.expect, check.hint)


def write_audit(path: Path, audit: Audit) -> None:
    """Write `audit` to `path` atomically.

    NaN and infinity become the text "nan" and "inf", which fail every check.
    """
    io.write_json(
        path,
        {
            "subject": audit.subject,
            "stage": audit.stage,
            "metrics": {name: _finite_or_text(metric.value) for name, metric in audit.metrics.items()},
            "descriptions": [[name, metric.unit, metric.kind, metric.description] for name, metric in audit.metrics.items()],
            "series": [_finite_or_text_deep(asdict(series)) for series in audit.series],
            "tables": [_finite_or_text_deep(asdict(table)) for table in audit.tables],
            "checks": [[name, check.expect, check.hint] for name, check in audit.checks.items()],
            "not_applicable": [[prefix, reason] for prefix, reason in audit.not_applicable.items()],
            "config": [list(entry) for entry in audit.config],
            "provenance": [dict(audit.provenance)],
        },
    )


def read_audit(path: Path) -> Audit:
    """Read an audit.

    Raises DataError if the file is not an audit or if a metric has no description.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        descriptions = {name: (unit, kind, description) for name, unit, kind, description in raw["descriptions"]}
        if set(descriptions) != set(raw["metrics"]):
            raise ValueError(f"metrics and descriptions differ: {sorted(set(descriptions) ^ set(raw['metrics']))}")
        metrics = {
            name: Metric(value, descriptions[name][0], descriptions[name][2], descriptions[name][1])
            for name, value in raw["metrics"].items()
        }
        series = [PlotSeries(**item) for item in raw["series"]]
        tables = [AuditTable(**item) for item in raw["tables"]]
        return Audit(
            raw["subject"],
            raw["stage"],
            metrics,
            series,
            tables,
            raw["provenance"][0],
            {name: Check(expect, hint) for name, expect, hint in raw["checks"]},
            dict(raw["not_applicable"]),
            [(section, key, value, is_default) for section, key, value, is_default in raw["config"]],
        )
    except KeyError as error:
        raise DataError(f"{path.as_posix()}: not a readable audit: missing key {error}; run its stage again") from None
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path.as_posix()}: not a readable audit: {error}") from None


def _finite_or_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _finite_or_text_deep(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_text_deep(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite_or_text_deep(item) for item in value]
    return _finite_or_text(value)
