"""Audits and bounds in; the report of what was measured, as Markdown, HTML and JSON with its plots, out."""

import os
from pathlib import Path

from provenlm.core import audit as audits
from provenlm.core import hashing, io
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.reporting import previous_version
from provenlm.reporting.evidence import AuditFile
from provenlm.reporting.render import RenderedReport, render_report
from stages import runner

CORPUS_STAGES = ("scrape", "filter", "dedupe", "tokenize")
RECIPE_STAGES = ("train", "validate")


def run_stage(context: runner.StageContext) -> None:
    output = render_report(context)
    paths, folder = context.paths, context.paths.report_file(context.subject, "md").parent
    for stale_dir in (paths.plots_dir(context.subject), paths.cards_dir(context.subject)):
        with io.atomic_dir(context.declare_output(stale_dir)):
            pass  # what an earlier run left goes
    for link, data in output.files.items():
        io.write_bytes(folder / link, data)
    for path in paths.report_files(context.subject):
        context.declare_output(path)
    for name, metric in output.counts.metrics.items():
        context.recorder.add_metric(name, metric)
    counts = {name.removeprefix("checks."): metric.value for name, metric in output.counts.metrics.items() if name != "verdict"}
    log_line(f"{context.subject}: {output.status}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    log_line(paths.report_file(context.subject, "md").relative_to(paths.root).as_posix())


def render_report(context: runner.StageContext) -> RenderedReport:
    """The report as its audits and bounds have it now; nothing is written."""
    title = context.parse_section("title", str)
    corpora = context.parse_section("corpora", tuple[str, ...])
    context.parse_section("recipes", tuple[str, ...])
    checks = context.parse_section("bounds", dict[str, dict[str, str]])
    audit_names = [(c, s) for c in corpora for s in CORPUS_STAGES] + [
        (r, s) for r in context.params.recipes_of(context.subject) for s in RECIPE_STAGES
    ]
    sources = [load_source(context, subject, name) for subject, name in audit_names]
    own_audit = AuditFile(
        context.subject,
        context.stage,
        report_link(context.paths, context.paths.audit_json(context.subject, context.stage)),
        "",
        None,
    )
    location = context.params.location("reports", context.subject, "bounds")
    return render_report(
        context.subject,
        title,
        sources,
        own_audit,
        checks,
        location,
        previous_snapshot(context.paths.snapshot_file(context.subject)),
    )


def previous_snapshot(path: Path) -> previous_version.SnapshotPair | None:
    """What the report said when it was made last; None if it never was."""
    return previous_version.load_snapshots(path.read_bytes(), path.as_posix()) if path.exists() else None


def load_source(context: runner.StageContext, subject: str, name: str) -> AuditFile:
    """The audit of one stage, declared as read; a stage that was not run leaves a source without audit."""
    path = context.paths.audit_json(subject, name)
    if not path.exists():
        return AuditFile(subject, name, report_link(context.paths, path), "", None)
    audit = audits.read_audit(context.declare_input(path))
    return AuditFile(subject, name, report_link(context.paths, path), hashing.sha256_file(path), audit)


def report_link(paths: ProjectPaths, path: Path) -> str:
    """`path` as a page in the folder of reports links to it."""
    return Path(os.path.relpath(path, paths.report_file("", "md").parent)).as_posix()


if __name__ == "__main__":
    runner.main("report", "reports", run_stage, __doc__)
