"""Small audits by hand, for every test of the reporting room."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from provenlm.core.audit import Audit, Figure, Series, Table
from provenlm.reporting.evidence import Source

Make = Callable[..., Source]


@pytest.fixture
def source() -> Make:
    """`source("toy", "train", loss=1.5)`: an audit whose figures are measured, in nats; a Figure stands for itself."""

    def make(
        subject: str, stage: str, series: Sequence[Series] = (), tables: Sequence[Table] = (), provenance: Any = None, **values: Any
    ) -> Source:
        figures = {
            name.replace("__", "."): value if isinstance(value, Figure) else Figure(value, "nats", "how surprised", "measured")
            for name, value in values.items()
        }
        audit = Audit(subject, stage, figures, series, tables, provenance or {})
        return Source(subject, stage, f"audits/{subject}/{stage}.json", "ab" * 32, audit)

    return make


@pytest.fixture
def absent() -> Make:
    """`absent("toy", "train")`: a stage that left no audit."""
    return lambda subject, stage: Source(subject, stage, f"audits/{subject}/{stage}.json", "", None)
