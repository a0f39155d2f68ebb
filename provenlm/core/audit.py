"""Audits: the figures that one stage measured for one subject, each with unit, meaning, kind and provenance.

The JSON keeps `figures` as a flat mapping of name to value and everything else in lists, because DVC prints every leaf of
a metrics file that is not in a list: so `dvc metrics show` shows the figures and nothing besides.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from provenlm.core import io
from provenlm.core.errors import ProvenlmError

MetricKind = Literal["measured", "counted", "estimated"]
MetricValue = int | float | str


@dataclass(frozen=True, slots=True)
class Metric:
    """One number (or one word). `measured`: by a clock, a kernel or an evaluation; `counted`: exact; `estimated`: by a formula."""

    value: MetricValue
    unit: str
    description: str
    kind: MetricKind


@dataclass(frozen=True, slots=True)
class PlotSeries:
    """Points to draw: `lines` share x; `bars` are counts of the bins that begin at x (one more x than y closes the last); each of `maps`
    is a square of shares, row after row, as many rows and columns as x."""

    name: str
    kind: Literal["lines", "bars", "maps"]
    description: str
    x_label: str
    y_label: str
    x_values: Sequence[float]
    y_values: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class AuditTable:
    """Rows to show: samples, sources, parts of a model. Cells are numbers or text (never markup)."""

    name: str
    description: str
    columns: Sequence[str]
    rows: Sequence[Sequence[MetricValue]]


@dataclass(frozen=True, slots=True)
class Audit:
    """What one stage found out about one subject, and all that is needed to doubt it."""

    subject: str
    stage: str
    metrics: Mapping[str, Metric]
    series: Sequence[PlotSeries]
    tables: Sequence[AuditTable]
    provenance: Mapping[str, Any]


@dataclass
class MetricRecorder:
    """Collects what a stage measures, in the order in which it is said."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    series: list[PlotSeries] = field(default_factory=list)
    tables: list[AuditTable] = field(default_factory=list)

    def add_count(self, name: str, value: MetricValue, unit: str, description: str) -> None:
        self.add_metric(name, Metric(value, unit, description, "counted"))

    def add_measurement(self, name: str, value: MetricValue, unit: str, description: str) -> None:
        self.add_metric(name, Metric(value, unit, description, "measured"))

    def add_estimate(self, name: str, value: MetricValue, unit: str, description: str) -> None:
        self.add_metric(name, Metric(value, unit, description, "estimated"))

    def add_metric(self, name: str, metric: Metric) -> None:
        """ValueError if a figure of that name was said before: a number has one home."""
        if name in self.metrics:
            raise ValueError(f"figure {name!r} recorded twice")
        self.metrics[name] = metric

    @contextmanager
    def scope(self, prefix: str) -> Iterator["MetricRecorder"]:
        """A recorder whose figures, series and tables land here with `prefix.` before their names."""
        inner = MetricRecorder()
        yield inner
        for name, metric in inner.metrics.items():
            self.add_metric(f"{prefix}.{name}", metric)
        self.series += [
            PlotSeries(f"{prefix}.{s.name}", s.kind, s.description, s.x_label, s.y_label, s.x_values, s.y_values)
            for s in inner.series
        ]
        self.tables += [AuditTable(f"{prefix}.{t.name}", t.description, t.columns, t.rows) for t in inner.tables]


def write_audit(path: Path, audit: Audit) -> None:
    """Write `audit` atomically. A value that is not finite is kept as a word (`nan`, `inf`), which no bound admits."""
    io.write_json(
        path,
        {
            "subject": audit.subject,
            "stage": audit.stage,
            "figures": {name: _finite_or_text(metric.value) for name, metric in audit.metrics.items()},
            "described": [[name, metric.unit, metric.kind, metric.description] for name, metric in audit.metrics.items()],
            "series": [_finite_or_text_deep(asdict(series)) for series in audit.series],
            "tables": [_finite_or_text_deep(asdict(table)) for table in audit.tables],
            "provenance": [dict(audit.provenance)],
        },
    )


def read_audit(path: Path) -> Audit:
    """Read an audit back. ProvenlmError if the file is not one, or says a figure without describing it."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        descriptions = {name: (unit, kind, meaning) for name, unit, kind, meaning in raw["described"]}
        if set(descriptions) != set(raw["figures"]):
            raise ValueError(f"figures and their descriptions differ: {sorted(set(descriptions) ^ set(raw['figures']))}")
        metrics = {
            name: Metric(value, descriptions[name][0], descriptions[name][2], descriptions[name][1])
            for name, value in raw["figures"].items()
        }
        series = [PlotSeries(**item) for item in raw["series"]]
        tables = [AuditTable(**item) for item in raw["tables"]]
        return Audit(raw["subject"], raw["stage"], metrics, series, tables, raw["provenance"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ProvenlmError(f"{path.as_posix()}: not a readable audit: {error}") from None


def _finite_or_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _finite_or_text_deep(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_text_deep(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite_or_text_deep(item) for item in value]
    return _finite_or_text(value)
