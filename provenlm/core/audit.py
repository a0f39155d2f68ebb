"""Write and read audits: the metrics that one stage recorded for one subject, with their provenance.

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

MetricKind = Literal["measured", "counted", "estimated"]
MetricValue = int | float | str


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
    """Hold rows for display, such as samples, sources or model parts. Cells are numbers or plain text, never markup."""

    name: str
    description: str
    columns: Sequence[str]
    rows: Sequence[Sequence[MetricValue]]


@dataclass(frozen=True, slots=True)
class Audit:
    """Hold what one stage recorded for one subject, with the provenance needed to repeat it."""

    subject: str
    stage: str
    metrics: Mapping[str, Metric]
    series: Sequence[PlotSeries]
    tables: Sequence[AuditTable]
    provenance: Mapping[str, Any]


@dataclass
class MetricRecorder:
    """Collect metrics, plots and tables in the order in which they are recorded."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    series: list[PlotSeries] = field(default_factory=list)
    tables: list[AuditTable] = field(default_factory=list)

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
        """Record `metric`. Raises ValueError if a metric of that name was recorded before."""
        if name in self.metrics:
            raise ValueError(f"metric {name!r} recorded twice")
        self.metrics[name] = metric

    @contextmanager
    def scope(self, prefix: str) -> Iterator["MetricRecorder"]:
        """Yield a recorder whose metrics, plots and tables are added here under `prefix.NAME` at the end of the block."""
        inner = MetricRecorder()
        yield inner
        for name, metric in inner.metrics.items():
            self.add_metric(f"{prefix}.{name}", metric)
        self.series += [replace(series, name=f"{prefix}.{series.name}") for series in inner.series]
        self.tables += [replace(table, name=f"{prefix}.{table.name}") for table in inner.tables]


def write_audit(path: Path, audit: Audit) -> None:
    """Write `audit` to `path` atomically. NaN and infinity become the text "nan" and "inf", which fail every check."""
    io.write_json(
        path,
        {
            "subject": audit.subject,
            "stage": audit.stage,
            "metrics": {name: _finite_or_text(metric.value) for name, metric in audit.metrics.items()},
            "descriptions": [[name, metric.unit, metric.kind, metric.description] for name, metric in audit.metrics.items()],
            "series": [_finite_or_text_deep(asdict(series)) for series in audit.series],
            "tables": [_finite_or_text_deep(asdict(table)) for table in audit.tables],
            "provenance": [dict(audit.provenance)],
        },
    )


def read_audit(path: Path) -> Audit:
    """Read an audit. Raises DataError if the file is not an audit or if a metric has no description."""
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
        return Audit(raw["subject"], raw["stage"], metrics, series, tables, raw["provenance"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path.as_posix()}: not a readable audit: {error}") from None


def _finite_or_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _finite_or_text_deep(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_text_deep(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite_or_text_deep(item) for item in value]
    return _finite_or_text(value)
