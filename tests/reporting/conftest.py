"""Small audits by hand, for every test of the reporting room."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from provenlm.core.audit import Audit, AuditTable, Metric, PlotSeries
from provenlm.reporting.evidence import AuditFile

Make = Callable[..., AuditFile]


@pytest.fixture
def source() -> Make:
    """`source("toy", "train", loss=1.5)`: an audit whose figures are measured, in nats; a Figure stands for itself."""

    def make(
        subject: str,
        stage: str,
        series: Sequence[PlotSeries] = (),
        tables: Sequence[AuditTable] = (),
        provenance: Any = None,
        **values: Any,
    ) -> AuditFile:
        figures = {
            name.replace("__", "."): value if isinstance(value, Metric) else Metric(value, "nats", "how surprised", "measured")
            for name, value in values.items()
        }
        audit = Audit(subject, stage, figures, series, tables, provenance or {})
        return AuditFile(subject, stage, f"audits/{subject}/{stage}.json", "ab" * 32, audit)

    return make


@pytest.fixture
def absent() -> Make:
    """`absent("toy", "train")`: a stage that left no audit."""
    return lambda subject, stage: AuditFile(subject, stage, f"audits/{subject}/{stage}.json", "", None)
