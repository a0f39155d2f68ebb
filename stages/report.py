"""Render a report from audits and checks.

The formats are Markdown, HTML and JSON, with plots and cards.
"""

import os
from pathlib import Path

from provenlm.core import hashing, io
from provenlm.core.audit import MetricRecorder, read_audit
from provenlm.core.examples import read_examples
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line
from provenlm.core.stages import CORPUS_STAGES, RECIPE_STAGES
from provenlm.reporting import previous_version, render
from provenlm.reporting.evidence import AuditFile
from provenlm.reporting.examples import RecipeExamples
from provenlm.reporting.render import RenderedReport
from stages import runner


def run_stage(context: runner.StageContext) -> None:
    """Write the files of a report and record how many checks passed."""
    output = render_current_report(context)
    paths, folder = context.paths, context.paths.report_file(context.subject, "md").parent
    for stale_dir in (paths.plots_dir(context.subject), paths.cards_dir(context.subject)):
        with io.atomic_dir(context.declare_output(stale_dir)):
            pass  # delete the plots and cards of an earlier run
    for link, data in output.files.items():
        io.write_bytes(folder / link, data)
    for path in paths.report_files(context.subject):
        context.declare_output(path)
    for name, metric in output.counts.metrics.items():
        context.recorder.add_metric(name, metric)
    log_line(f"{context.subject}: {output.status}: {count_line(output.counts)}")
    log_line(paths.report_file(context.subject, "md").relative_to(paths.root).as_posix())


def count_line(counts: MetricRecorder) -> str:
    """Format the numbers of checks by origin and by status on one line."""
    numbers = {name.removeprefix("checks."): metric.value for name, metric in counts.metrics.items() if name != "verdict"}
    total, standard, custom = (numbers.pop(name) for name in ("total", "standard", "custom"))
    by_status = ", ".join(f"{number} {name}" for name, number in numbers.items())
    return f"{total} checks ({standard} standard, {custom} custom): {by_status}"


def render_current_report(context: runner.StageContext) -> RenderedReport:
    """Render a report from its current audits and checks, without writing files."""
    title = context.parse_section("title", str)
    context.parse_section("corpora", tuple[str, ...])
    context.parse_section("recipes", tuple[str, ...])
    checks = context.parse_section("checks", object)
    audit_files = load_audit_files(context)
    own_audit = AuditFile(
        context.subject,
        context.stage,
        report_link(context.paths, context.paths.audit_json(context.subject, context.stage)),
        "",
        None,
    )
    location = context.params.location("reports", context.subject, "checks")
    return render.render_report(
        context.subject,
        title,
        audit_files,
        own_audit,
        checks,
        location,
        previous_snapshot(context.paths.snapshot_file(context.subject)),
        load_recipe_examples(context),
    )


def load_audit_files(context: runner.StageContext) -> list[AuditFile]:
    """Load the audits of every stage that a report covers, in the order of the stages."""
    audit_names = [(corpus, stage) for corpus in context.entry["corpora"] for stage in CORPUS_STAGES]
    audit_names += [(recipe, stage) for recipe in context.params.recipes_of(context.subject) for stage in RECIPE_STAGES]
    return [load_audit_file(context, subject, stage) for subject, stage in audit_names]


def load_recipe_examples(context: runner.StageContext) -> list[RecipeExamples]:
    """Load the examples of the recipes and declare their folders as inputs."""
    recipes = []
    for recipe in context.params.recipes_of(context.subject):
        folder = context.paths.samples_dir(recipe)
        if examples := read_examples(folder):
            recipes.append(RecipeExamples(recipe, report_link(context.paths, context.declare_input(folder)), examples))
    return recipes


def previous_snapshot(path: Path) -> previous_version.SnapshotPair | None:
    """Load the snapshots of the previous report; None if there was no report."""
    return previous_version.load_snapshots(path.read_bytes(), path.as_posix()) if path.exists() else None


def load_audit_file(context: runner.StageContext, subject: str, name: str) -> AuditFile:
    """Load the audit of one stage and declare it as an input.

    A stage that was not run has no audit.
    """
    path = context.paths.audit_json(subject, name)
    if not path.exists():
        return AuditFile(subject, name, report_link(context.paths, path), "", None)
    audit = read_audit(context.declare_input(path))
    return AuditFile(subject, name, report_link(context.paths, path), hashing.sha256_file(path), audit)


def report_link(paths: ProjectPaths, path: Path) -> str:
    """Return `path` relative to the reports folder, as the report links to it."""
    return Path(os.path.relpath(path, paths.report_file("", "md").parent)).as_posix()


if __name__ == "__main__":
    runner.main("report", "reports", run_stage, __doc__)
