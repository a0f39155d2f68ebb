"""Verify the files and audits of a report against the files on disk.

Each mismatch is one sentence.

Verification answers four questions. Do the files follow from the audits and checks? Was each audit written by the present code with the
present params? Is it the audit that DVC recorded? Did each stage read exactly what the stage before it wrote?
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from provenlm.core import hashing
from provenlm.core.audit import Metric
from provenlm.reporting.evidence import AuditFile

DigestLookup = Callable[[str], str | None]  # digest of a path relative to the project root; None if it does not exist


def file_mismatches(expected: Mapping[str, bytes], actual: Mapping[str, bytes]) -> list[str]:
    """Compare the files of a report, by link, with those rendered from its audits."""
    missing = [f"{path}: missing" for path in expected if path not in actual]
    unexpected = [f"{path}: not a file of this report" for path in actual if path not in expected]
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
            return f"{path}: line {number} must be {_excerpt(expected_line, position)}, got {_excerpt(actual_line, position)}"
    return f"{path}: differs in its line endings"


def _excerpt(line: str, position: int, context: int = 24) -> str:
    return repr(line[max(0, position - context) : position + context])


def count_mismatches(report_audit: AuditFile, counts: Mapping[str, Metric]) -> list[str]:
    """Compare the counts in the report's own audit with those of its checks."""
    metrics = report_audit.audit.metrics if report_audit.audit else {}
    return [f"{report_audit.name}.{name}: must be {metric.value}" for name, metric in counts.items() if metrics.get(name) != metric]


def audit_mismatches(file: AuditFile, digest_lookup: DigestLookup, config_value: Callable[[str], Any]) -> list[str]:
    """Compare an audit's provenance with the files and params.

    `config_value` looks up a dotted key of params.yaml.
    """
    if file.audit is None:
        return [f"{file.name}: no audit"]
    audit, provenance = file.audit, file.audit.provenance
    mismatches = []
    if (audit.subject, audit.stage) != (file.subject, file.stage):
        mismatches.append(f"{file.path}: must be the audit of {file.name}, got that of {audit.subject}/{audit.stage}")
    if provenance.get("params_digest") != hashing.sha256_json(provenance.get("params")):
        mismatches.append(f"{file.name}: params_digest does not match the recorded params")
    mismatches += [
        f"{file.name}: {key} in params.yaml has changed since the stage ran"
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
        return f"{file.name}: {path} is missing; `dvc pull` fetches it, `dvc repro` rebuilds it"
    return None if current == recorded else f"{file.name}: {path} has changed since it was recorded in the {role}"


def dvc_lock_mismatch(file: AuditFile, recorded_md5: Mapping[str, str], md5: DigestLookup, path: str) -> list[str]:
    """Check that the audit at `path` is the version that DVC recorded, if any.

    Without this check, an edited audit would be consistent with a report rendered from it.
    """
    matches = path not in recorded_md5 or md5(path) == recorded_md5[path]
    return [] if matches else [f"{file.name}: {path} differs from the file that dvc.lock records"]


def lineage_mismatches(files: Sequence[AuditFile]) -> list[str]:
    """Find stages whose recorded inputs differ from the outputs of their producer."""
    outputs: dict[str, tuple[str, str]] = {}
    mismatches = []
    for file in files:
        provenance = file.audit.provenance if file.audit else {}
        for path, digest_read in provenance.get("inputs", []):
            writer, digest_written = outputs.get(path, ("", digest_read))
            if digest_written != digest_read:
                mismatches.append(f"{file.name}: read a different version of {path} than {writer} wrote")
        outputs |= {path: (file.name, digest_read) for path, digest_read in provenance.get("outputs", [])}
    return mismatches


def code_mismatch(file: AuditFile, code_digest: Callable[[Sequence[str]], str | None]) -> list[str]:
    """Check that the audit was written by the present code.

    `code_digest` returns None if a file is missing.
    """
    provenance = file.audit.provenance if file.audit else {}
    matches = code_digest(provenance.get("code", [])) == provenance.get("code_digest")
    return [] if matches else [f"{file.name}: written by a different version of the code"]
