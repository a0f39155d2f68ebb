"""What a report said before and says now, as one file: the only memory of a report, so that it can say what moved.

A version is known by the digests of its audits. Rendered again from the same audits, a report keeps the version before; from other
audits, what it said last becomes the version before. So the page stays a function of what lies on disk, and needs no git.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from provenlm.core.audit import MetricValue
from provenlm.core.errors import ProvenlmError
from provenlm.reporting.checks import CheckResult, overall_status
from provenlm.reporting.evidence import AuditSet


@dataclass(frozen=True)
class ReportSnapshot:
    """`audits`: path and digest of each audit that was there; `begun`: when the last of their stages was started."""

    audits: Sequence[Sequence[str]]
    started_at: str
    status: str
    checks: Mapping[str, str]  # status by figure
    metrics: Mapping[str, MetricValue]  # value by id


@dataclass(frozen=True)
class SnapshotPair:
    """This version and the one before; None if there is none."""

    current: ReportSnapshot
    previous: ReportSnapshot | None

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def make_snapshot(audits: AuditSet, checks: Sequence[CheckResult]) -> ReportSnapshot:
    """What the evidence and the checks say."""
    present_audits = [(file, file.audit) for file in audits.files if file.audit is not None]
    return ReportSnapshot(
        audits=[[file.path, file.digest] for file, _ in present_audits],
        started_at=max((str(audit.provenance.get("started", "")) for _, audit in present_audits), default=""),
        status=overall_status(checks).value,
        checks={check.id: check.status.value for check in checks},
        metrics={f"{file.name}.{name}": metric.value for file, audit in present_audits for name, metric in audit.metrics.items()},
    )


def advance_snapshots(recorded: SnapshotPair | None, current: ReportSnapshot) -> SnapshotPair:
    """`now`, and before it: what was before, if `known` is of the same audits; else what `known` says."""
    if recorded is None:
        return SnapshotPair(current, None)
    same_audits = [list(row) for row in recorded.current.audits] == [list(row) for row in current.audits]
    return SnapshotPair(current, recorded.previous if same_audits else recorded.current)


def load_snapshots(data: bytes, location: str) -> SnapshotPair:
    """What `Versions.file` wrote. ProvenlmError, which begins with `where`, if it is something else."""
    try:
        raw = json.loads(data)
        return SnapshotPair(ReportSnapshot(**raw["now"]), ReportSnapshot(**raw["before"]) if raw["before"] else None)
    except (ValueError, KeyError, TypeError) as error:
        raise ProvenlmError(f"{location}: not readable: {error}; remove it, and the report compares itself with nothing") from None
