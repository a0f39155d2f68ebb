"""A report's files, its audits and what lies on disk in; one sentence for each thing that does not fit, out.

Four questions: do the files say what the audits and bounds say now; was each audit made by the stage, with the params and the code
that lie here; is it the one that DVC recorded; and do the audits fit each other, each having read what the one before it wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from provenlm.core import hashing
from provenlm.core.audit import Metric
from provenlm.reporting.evidence import AuditFile

DigestLookup = Callable[[str], str | None]  # of the file or folder at a path below the project's root; None if it is not there


def file_mismatches(expected: Mapping[str, bytes], actual: Mapping[str, bytes]) -> list[str]:
    """Files of a report that are not what its audits and bounds make; both sides by the same addresses."""
    missing = [f"{path}: not there" for path in expected if path not in actual]
    unexpected = [f"{path}: no audit has such a plot" for path in actual if path not in expected]
    changed = [
        _first_difference(path, expected[path], actual[path])
        for path in expected
        if path in actual and expected[path] != actual[path]
    ]
    return missing + unexpected + changed


def _first_difference(path: str, expected: bytes, actual: bytes) -> str:
    pairs = zip_longest(expected.decode().splitlines(), actual.decode(errors="replace").splitlines(), fillvalue="")
    for number, (expected_line, actual_line) in enumerate(pairs, start=1):
        if expected_line != actual_line:
            position = next((index for index, (a, b) in enumerate(zip_longest(expected_line, actual_line)) if a != b), 0)
            return f"{path}: line {number} says {_excerpt(actual_line, position)} where the audits say {_excerpt(expected_line, position)}"
    return f"{path}: differs in its line ends"


def _excerpt(line: str, position: int, context: int = 24) -> str:
    return repr(line[max(0, position - context) : position + context])


def count_mismatches(report_audit: AuditFile, counts: Mapping[str, Metric]) -> list[str]:
    """Counts of checks in the report's own audit that are not those of its checks."""
    metrics = report_audit.audit.metrics if report_audit.audit else {}
    return [f"{report_audit.name}.{name}: not {metric.value}" for name, metric in counts.items() if metrics.get(name) != metric]


def audit_mismatches(file: AuditFile, digest_lookup: DigestLookup, config_value: Callable[[str], Any]) -> list[str]:
    """What an audit says about itself that is not so here. `section` gives the value of a dotted key of params.yaml, or None."""
    if file.audit is None:
        return [f"{file.name}: no audit"]
    audit, provenance = file.audit, file.audit.provenance
    mismatches = []
    if (audit.subject, audit.stage) != (file.subject, file.stage):
        mismatches.append(f"{file.path}: is an audit of {audit.subject}/{audit.stage}")
    if provenance.get("params_digest") != hashing.sha256_json(provenance.get("params")):
        mismatches.append(f"{file.name}: the digest of its params is not theirs")
    mismatches += [
        f"{file.name}: {key} in params.yaml is not what it was run with"
        for key, value in provenance.get("params", {}).items()
        if hashing.sha256_json(config_value(key)) != hashing.sha256_json(value)
    ]
    for role in ("inputs", "outputs"):
        mismatches += [
            mismatch
            for path, recorded in provenance.get(role, [])
            if (mismatch := _file_mismatch(file, role, path, recorded, digest_lookup(path)))
        ]
    return mismatches


def _file_mismatch(file: AuditFile, role: str, path: str, recorded: str, current: str | None) -> str | None:
    if current is None:
        return f"{file.name}: {path} is not there; `dvc pull` or `dvc repro` brings it"
    return None if current == recorded else f"{file.name}: {path} has changed since it was among its {role}"


def dvc_lock_mismatch(file: AuditFile, recorded_md5: Mapping[str, str], md5: DigestLookup, path: str) -> list[str]:
    """Whether the audit at `path` is the one that DVC recorded when its stage ran; DVC may never have run it.

    An edited audit is otherwise consistent with a report that was made again from it.
    """
    matches = path not in recorded_md5 or md5(path) == recorded_md5[path]
    return [] if matches else [f"{file.name}: {path} is not what DVC recorded in dvc.lock when the stage ran"]


def lineage_mismatches(files: Sequence[AuditFile]) -> list[str]:
    """Audits that read something else than what the audit before them wrote: one of the two is of another run."""
    outputs: dict[str, tuple[str, str]] = {}
    mismatches = []
    for file in files:
        provenance = file.audit.provenance if file.audit else {}
        for path, digest_read in provenance.get("inputs", []):
            writer, digest_written = outputs.get(path, ("", digest_read))
            if digest_written != digest_read:
                mismatches.append(f"{file.name}: read another {path} than {writer} wrote")
        outputs |= {path: (file.name, digest_read) for path, digest_read in provenance.get("outputs", [])}
    return mismatches


def code_mismatch(file: AuditFile, code_digest: Callable[[Sequence[str]], str | None]) -> list[str]:
    """Whether the code that made an audit is the code that lies here. `code_digest` is None if a file is gone."""
    provenance = file.audit.provenance if file.audit else {}
    matches = code_digest(provenance.get("code", [])) == provenance.get("code_digest")
    return [] if matches else [f"{file.name}: made by other code than lies here"]
