"""Render all files of a report in memory.

The same audits and checks give the same bytes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provenlm.core.audit import Audit, MetricRecorder
from provenlm.core.errors import DataError
from provenlm.reporting import cards, checks, html, plots, previous_version, thresholds
from provenlm.reporting.dataset_card import dataset_card
from provenlm.reporting.evidence import AuditFile, AuditSet
from provenlm.reporting.examples import RecipeExamples, examples_html
from provenlm.reporting.markdown import slug
from provenlm.reporting.model_card import model_card
from provenlm.reporting.page import BULKY_KEYS, EXAMPLES_TITLE, Report, render_markdown

UNSAFE_FILENAME_CHARS = re.compile(r"[^\w.-]", re.ASCII)  # replaced in file names
PROVENANCE_KEYS = ("command", "params_digest", "code_digest", "commit", "dirty", "seed", "device", "versions", "started")


@dataclass(frozen=True)
class RenderedReport:
    """Hold the audits, files, verdict and counts of a report.

    Files are mapped by their link below the reports folder.
    """

    audit_files: Sequence[AuditFile]
    files: Mapping[str, bytes]
    status: checks.CheckStatus
    counts: MetricRecorder


def render_report(
    name: str,
    title: str,
    audit_files: Sequence[AuditFile],
    own_audit: AuditFile,
    checks_config: object,
    location: str,
    recorded_snapshots: previous_version.SnapshotPair | None,
    examples: Sequence[RecipeExamples] = (),
) -> RenderedReport:
    """Evaluate the checks and render every file of the report `name`.

    `own_audit` is the future audit file of the report; `location` is the prefix of error messages about `checks_config`;
    `recorded_snapshots` is the content of the snapshot file before this run; `examples` are those of the recipes that have any. Raise
    DataError if two plots share a file name.
    """
    audits = AuditSet(tuple(audit_files))
    results = checks.evaluate_checks(audits, thresholds.parse_checks(checks_config, location), location)
    counts = MetricRecorder()
    checks.record_counts(results, counts)
    audit = Audit(own_audit.subject, own_audit.stage, counts.metrics, (), (), {})
    svgs = {series_id: plots.plot_series(series) for series_id, series in _series_by_id(audit_files).items()}
    plot_paths = {series_id: f"{name}_files/{UNSAFE_FILENAME_CHARS.sub('-', series_id)}.svg" for series_id in svgs}
    if len(set(plot_paths.values())) < len(plot_paths):
        raise DataError(f"{name}: plot file names must be unique, got the same one for two of {sorted(plot_paths)}")
    snapshots = previous_version.advance_snapshots(recorded_snapshots, previous_version.make_snapshot(audits, results))
    snapshot_file, card_files = f"{name}_versions.json", _render_cards(name, title, audits, results)
    report = Report(
        title,
        audits,
        AuditFile(own_audit.subject, own_audit.stage, own_audit.path, "", audit),
        results,
        plot_paths,
        snapshots,
        snapshot_file,
        list(card_files),
        examples,
    )
    page = render_markdown(report)
    plot_files = {plot_paths[series_id]: svgs[series_id] for series_id in svgs}
    sections = {slug(EXAMPLES_TITLE): examples_html(examples)} if examples else {}
    files = {
        f"{name}.md": page.encode(),
        f"{name}.html": html.render_html(page, title, plot_files, sections).encode(),
        snapshot_file: snapshots.to_json(),
        f"{name}.json": (json.dumps(summary_json(name, report), indent=2, ensure_ascii=False) + "\n").encode(),
    }
    return RenderedReport(audit_files, {**files, **card_files, **plot_files}, checks.overall_status(results), counts)


def _render_cards(name: str, title: str, audits: AuditSet, results: Sequence[checks.CheckResult]) -> dict[str, bytes]:
    """Render a card, in a subfolder, for each recipe and corpus with an audit."""
    files = {}
    for subject, audit_files in cards.by_subject(audits, "../").items():
        if any(file.audit for file in audit_files.values()):
            card = cards.Card(subject, title, f"../{name}.md", checks.overall_status(results), audit_files, results)
            card_renderer = model_card if "train" in audit_files else dataset_card
            files[f"{name}_cards/{cards.card_filename(subject)}"] = card_renderer(card).encode()
    return files


def summary_json(name: str, report: Report) -> dict[str, Any]:
    """Return the report for programs.

    Checks and audits are lists, so that `dvc metrics` shows only the counts.
    """
    metrics = report.own_audit.require_audit().metrics
    return {
        "report": name,
        "status": checks.overall_status(report.checks).value,
        **{key: metric.value for key, metric in metrics.items() if key != "verdict"},
        "checks": [_check_json(report, check) for check in report.checks],
        "audits": [_audit_json(file) for file in report.audits.files],
    }


def _check_json(report: Report, check: checks.CheckResult) -> dict[str, Any]:
    """Describe one check with its provenance.

    Null for entries that its stage did not record (a scrape has no seed).
    """
    metric, file = check.metric, report.audits.file_of(check.id, report.title)
    provenance = file.audit.provenance if file.audit else {}
    return {
        "id": check.id,
        "status": check.status.value,
        "reason": check.reason,
        "expect": check.expect,
        "origin": check.origin,
        "value": metric.value if metric else None,
        "unit": metric.unit if metric else None,
        "kind": metric.kind if metric else None,
        "operands": [[name, operand.value] for name, operand in check.operands.items()],
        "hint": check.hint,
        "description": metric.description if metric else None,
        "audit": file.path,
        "digest": file.digest or None,
        **{key: provenance.get(key) for key in PROVENANCE_KEYS},
    }


def _audit_json(file: AuditFile) -> dict[str, Any]:
    provenance = file.audit.provenance if file.audit else {}
    fields = {key: value for key, value in provenance.items() if key not in BULKY_KEYS}
    return {"audit": file.path, "digest": file.digest, "present": file.audit is not None, **fields}


def _series_by_id(audit_files: Sequence[AuditFile]) -> dict[str, Any]:
    return {f"{file.name}.{series.name}": series for file in audit_files if file.audit for series in file.audit.series}
