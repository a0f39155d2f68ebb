"""Provide small handmade audits for the tests of the reporting package."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from provenlm.core.audit import Audit, AuditTable, Check, Metric, PlotSeries
from provenlm.reporting.evidence import AuditFile

AuditFileFactory = Callable[..., AuditFile]


@pytest.fixture
def make_audit_file() -> AuditFileFactory:
    """Call `make_audit_file("toy", "train", loss=1.5)`: numbers become metrics measured in nats, a Metric is used as it is."""

    def make(
        subject: str,
        stage: str,
        series: Sequence[PlotSeries] = (),
        tables: Sequence[AuditTable] = (),
        provenance: Any = None,
        checks: Any = None,
        not_applicable: Any = None,
        config: Any = (),
        **values: Any,
    ) -> AuditFile:
        metrics = {
            name.replace("__", "."): value if isinstance(value, Metric) else Metric(value, "nats", "loss", "measured")
            for name, value in values.items()
        }
        audit = Audit(
            subject,
            stage,
            metrics,
            series,
            tables,
            provenance or {},
            checks={name: Check(*check) for name, check in (checks or {}).items()},
            not_applicable=not_applicable or {},
            config=config,
        )
        return AuditFile(subject, stage, f"audits/{subject}/{stage}.json", "ab" * 32, audit)

    return make


@pytest.fixture
def make_missing_file() -> AuditFileFactory:
    """Call `make_missing_file("toy", "train")`: a stage without an audit."""
    return lambda subject, stage: AuditFile(subject, stage, f"audits/{subject}/{stage}.json", "", None)
