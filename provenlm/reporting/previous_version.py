"""Store the current and the previous snapshot of a report in a file.

The page shows what changed between them.

A snapshot is identified by the digests of its audits. A report that is rendered again from the same audits keeps the previous snapshot;
with different audits, the last current snapshot becomes the previous one. The page is thus a function of the files on disk, without git.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from provenlm.core.audit import MetricValue
from provenlm.core.errors import DataError
from provenlm.reporting.checks import CheckResult, overall_status
from provenlm.reporting.evidence import AuditSet


@dataclass(frozen=True)
class ReportSnapshot:
    """Hold the results of a report with the path and digest of each audit.

    `started_at` is the start time of the last stage.
    """

    audits: Sequence[Sequence[str]]
    started_at: str
    status: str
    checks: Mapping[str, str]  # status by metric id
    metrics: Mapping[str, MetricValue]  # value by metric id


@dataclass(frozen=True)
class SnapshotPair:
    """Hold the current snapshot and the previous, which is None for the first report."""

    current: ReportSnapshot
    previous: ReportSnapshot | None

    def to_json(self) -> bytes:
        """Serialize both snapshots as JSON."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def make_snapshot(audits: AuditSet, checks: Sequence[CheckResult]) -> ReportSnapshot:
    """Create the snapshot of these audits and check results."""
    present_audits = [(file, file.audit) for file in audits.files if file.audit is not None]
    return ReportSnapshot(
        audits=[[file.path, file.digest] for file, _ in present_audits],
        started_at=max((str(audit.provenance.get("started", "")) for _, audit in present_audits), default=""),
        status=overall_status(checks).value,
        checks={check_id: overall_status(results).value for check_id, results in _by_id(checks).items()},
        metrics={f"{file.name}.{name}": metric.value for file, audit in present_audits for name, metric in audit.metrics.items()},
    )


def _by_id(checks: Sequence[CheckResult]) -> dict[str, list[CheckResult]]:
    """Group check results by metric id: a report may tighten a standard check."""
    results_by_id: dict[str, list[CheckResult]] = {}
    for check in checks:
        results_by_id.setdefault(check.id, []).append(check)
    return results_by_id


def advance_snapshots(recorded: SnapshotPair | None, current: ReportSnapshot) -> SnapshotPair:
    """Pair `current` with its predecessor.

    If `recorded` has the same audits, its previous snapshot is kept.
    """
    if recorded is None:
        return SnapshotPair(current, None)
    same_audits = [list(row) for row in recorded.current.audits] == [list(row) for row in current.audits]
    return SnapshotPair(current, recorded.previous if same_audits else recorded.current)


def load_snapshots(data: bytes, location: str) -> SnapshotPair:
    """Parse the output of `SnapshotPair.to_json`; raise DataError for anything else."""
    try:
        raw = json.loads(data)
        return SnapshotPair(ReportSnapshot(**raw["current"]), ReportSnapshot(**raw["previous"]) if raw["previous"] else None)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{location}: must be a snapshot file, got {error!r}; delete it to start without a previous version"
        ) from None
