"""What a report said before and says now, as one file: the only memory of a report, so that it can say what moved.

A version is known by the digests of its audits. Rendered again from the same audits, a report keeps the version before; from other
audits, what it said last becomes the version before. So the page stays a function of what lies on disk, and needs no git.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from provenlm.core.audit import Value
from provenlm.core.errors import UserError
from provenlm.reporting.checks import Check, verdict
from provenlm.reporting.evidence import Evidence


@dataclass(frozen=True)
class Version:
    """`audits`: path and digest of each audit that was there; `begun`: when the last of their stages was started."""

    audits: Sequence[Sequence[str]]
    begun: str
    status: str
    checks: Mapping[str, str]  # status by figure
    figures: Mapping[str, Value]  # value by id


@dataclass(frozen=True)
class Versions:
    """This version and the one before; None if there is none."""

    now: Version
    before: Version | None

    def file(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def version(evidence: Evidence, checks: Sequence[Check]) -> Version:
    """What the evidence and the checks say."""
    there = [(source, source.audit) for source in evidence.sources if source.audit is not None]
    return Version(
        audits=[[source.path, source.digest] for source, _ in there],
        begun=max((str(audit.provenance.get("started", "")) for _, audit in there), default=""),
        status=verdict(checks).value,
        checks={check.id: check.status.value for check in checks},
        figures={f"{source.name}.{name}": figure.value for source, audit in there for name, figure in audit.figures.items()},
    )


def advanced(known: Versions | None, now: Version) -> Versions:
    """`now`, and before it: what was before, if `known` is of the same audits; else what `known` says."""
    if known is None:
        return Versions(now, None)
    same = [list(row) for row in known.now.audits] == [list(row) for row in now.audits]
    return Versions(now, known.before if same else known.now)


def read(data: bytes, where: str) -> Versions:
    """What `Versions.file` wrote. UserError, which begins with `where`, if it is something else."""
    try:
        raw = json.loads(data)
        return Versions(Version(**raw["now"]), Version(**raw["before"]) if raw["before"] else None)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not readable: {error}; remove it, and the report compares itself with nothing") from None
