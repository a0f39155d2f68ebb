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
from provenlm.core.errors import UserError

Kind = Literal["measured", "counted", "estimated"]
Value = int | float | str


@dataclass(frozen=True, slots=True)
class Figure:
    """One number (or one word). `measured`: by a clock, a kernel or an evaluation; `counted`: exact; `estimated`: by a formula."""

    value: Value
    unit: str
    meaning: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Series:
    """Points to draw: `lines` share x; `bars` are counts of the bins that begin at x (one more x than y closes the last); each of `maps`
    is a square of shares, row after row, as many rows and columns as x."""

    name: str
    shape: Literal["lines", "bars", "maps"]
    meaning: str
    x_label: str
    y_label: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to show: samples, sources, parts of a model. Cells are numbers or text (never markup)."""

    name: str
    meaning: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Audit:
    """What one stage found out about one subject, and all that is needed to doubt it."""

    subject: str
    stage: str
    figures: Mapping[str, Figure]
    series: Sequence[Series]
    tables: Sequence[Table]
    provenance: Mapping[str, Any]


@dataclass
class Recorder:
    """Collects what a stage measures, in the order in which it is said."""

    figures: dict[str, Figure] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def counted(self, name: str, value: Value, unit: str, meaning: str) -> None:
        self.add(name, Figure(value, unit, meaning, "counted"))

    def measured(self, name: str, value: Value, unit: str, meaning: str) -> None:
        self.add(name, Figure(value, unit, meaning, "measured"))

    def estimated(self, name: str, value: Value, unit: str, meaning: str) -> None:
        self.add(name, Figure(value, unit, meaning, "estimated"))

    def add(self, name: str, figure: Figure) -> None:
        """ValueError if a figure of that name was said before: a number has one home."""
        if name in self.figures:
            raise ValueError(f"figure {name!r} recorded twice")
        self.figures[name] = figure

    @contextmanager
    def under(self, prefix: str) -> Iterator["Recorder"]:
        """A recorder whose figures, series and tables land here with `prefix.` before their names."""
        inner = Recorder()
        yield inner
        for name, figure in inner.figures.items():
            self.add(f"{prefix}.{name}", figure)
        self.series += [Series(f"{prefix}.{s.name}", s.shape, s.meaning, s.x_label, s.y_label, s.x, s.lines) for s in inner.series]
        self.tables += [Table(f"{prefix}.{t.name}", t.meaning, t.columns, t.rows) for t in inner.tables]


def write(path: Path, audit: Audit) -> None:
    """Write `audit` atomically. A value that is not finite is kept as a word (`nan`, `inf`), which no bound admits."""
    io.write_json(
        path,
        {
            "subject": audit.subject,
            "stage": audit.stage,
            "figures": {name: _finite(figure.value) for name, figure in audit.figures.items()},
            "described": [[name, figure.unit, figure.kind, figure.meaning] for name, figure in audit.figures.items()],
            "series": [_finite_all(asdict(series)) for series in audit.series],
            "tables": [_finite_all(asdict(table)) for table in audit.tables],
            "provenance": [dict(audit.provenance)],
        },
    )


def read(path: Path) -> Audit:
    """Read an audit back. UserError if the file is not one, or says a figure without describing it."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        described = {name: (unit, kind, meaning) for name, unit, kind, meaning in raw["described"]}
        if set(described) != set(raw["figures"]):
            raise ValueError(f"figures and their descriptions differ: {sorted(set(described) ^ set(raw['figures']))}")
        figures = {
            name: Figure(value, described[name][0], described[name][2], described[name][1])
            for name, value in raw["figures"].items()
        }
        series = [Series(**item) for item in raw["series"]]
        tables = [Table(**item) for item in raw["tables"]]
        return Audit(raw["subject"], raw["stage"], figures, series, tables, raw["provenance"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path.as_posix()}: not a readable audit: {error}") from None


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _finite_all(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_all(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite_all(item) for item in value]
    return _finite(value)
