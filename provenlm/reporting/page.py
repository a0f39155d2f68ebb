"""Render a report as a Markdown page.

The page has verdict, checks, hints, stages not run, metrics, changes and audits.

A number gets onto the page only through `cite`, or as text from an audit or params.yaml. Links to headings, audits and plots are
built from ids. The same audits and checks give the same page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from provenlm.core.audit import AuditTable, Metric, PlotSeries
from provenlm.reporting.checks import CheckResult, CheckStatus, count_metric_name, overall_status
from provenlm.reporting.citations import cite, cite_table
from provenlm.reporting.diff import diff_section
from provenlm.reporting.evidence import AuditFile, AuditSet, display_value, flatten, split_metric_id
from provenlm.reporting.examples import RecipeExamples
from provenlm.reporting.markdown import Markdown, bold, bullet_list, code, escape, heading, image, link, slug, table
from provenlm.reporting.previous_version import SnapshotPair

SHORT_DIGEST = 16  # displayed characters of a digest; the title of the link holds all of it
BULKY_KEYS = ("params", "code")  # only in the audit; the page shows their digests
EMPTY_CELL = Markdown("–")
EXAMPLES_TITLE = "Examples"
VERDICT_RULES = Markdown(
    "The verdict is the worst status of all checks: PASS requires that every metric was measured or counted and meets its expectation. "
    "This page is a function of the audits listed under Audits, the checks in params.yaml and the previous version of the page. Every "
    "number links to its audit; hover over it to see its id and exact value. The mark ≈ precedes an estimate."
)


@dataclass(frozen=True)
class Report:
    """Hold everything that a page shows.

    `own_audit` counts the checks, `plots` maps series ids to image files.
    """

    title: str
    audits: AuditSet
    own_audit: AuditFile
    checks: Sequence[CheckResult]
    plots: Mapping[str, str]
    snapshots: SnapshotPair
    snapshot_file: str  # link to the file with the current and the previous snapshot
    cards: Sequence[str]  # files named after their subjects
    examples: Sequence[RecipeExamples]


def render_markdown(report: Report) -> str:
    """Render the page with one blank line between blocks and a newline at the end."""
    blocks = [
        heading(1, escape(report.title)),
        *_verdict_block(report),
        *_checks_section(report),
        *_hints_section(report),
        *_not_run_section(report),
        *_examples_section(report),
    ]
    subject = ""
    for file in report.audits.files:
        if file.audit is not None:
            blocks += [heading(2, escape(file.subject))] if file.subject != subject else []
            blocks += _stage_section(report, file)
            subject = file.subject
    blocks += _settings_section(report)
    blocks += diff_section(report.snapshots, report.audits, report.snapshot_file)
    blocks += [heading(2, Markdown("Audits")), _cards_paragraph(report)]
    blocks += [block for file in report.audits.files if file.audit is not None for block in _provenance_section(file)]
    return "\n\n".join(blocks) + "\n"


def _cite(report: Report, metric_id: str, metric: Metric) -> Markdown:
    return cite(report.audits.file_of(metric_id, report.title), split_metric_id(metric_id)[1], metric)


def _verdict_block(report: Report) -> Iterator[Markdown]:
    audit = report.own_audit.require_audit()
    counts = {name: cite(report.own_audit, name, metric) for name, metric in audit.metrics.items() if name.startswith("checks.")}
    status = bold(Markdown(overall_status(report.checks)))
    counts_line = " · ".join(
        f"{counts[name]} {check_status.value}" for check_status in CheckStatus if (name := count_metric_name(check_status))
    )
    yield Markdown(f"{status} {counts['checks.total']}: {counts_line}")
    yield Markdown(f"Checks: standard ({counts['checks.standard']}) and custom ({counts['checks.custom']}).")
    yield VERDICT_RULES


def _checks_section(report: Report) -> Iterator[Markdown]:
    yield heading(2, Markdown("Checks"))
    columns = [Markdown(word) for word in ("Status", "Metric", "Measured", "Expected", "Description")]
    yield table(columns, [_check_row(report, check) for check in report.checks], [False, False, True, False, False])


def _check_row(report: Report, check: CheckResult) -> list[Markdown]:
    audit_name, name = split_metric_id(check.id)
    anchor = slug(audit_name) if report.audits.file_of(check.id, report.title).audit else slug("Not run")
    measured = _cite(report, check.id, check.metric) if check.metric else EMPTY_CELL
    levels = [
        f"{metric_id.rpartition('.')[2]} {_cite(report, metric_id, metric)}" for metric_id, metric in check.reference_levels.items()
    ]
    expected = code(check.expect)
    operands = [_cite(report, metric_id, metric) for metric_id, metric in check.operands.items()]
    descriptions = [escape(part) for part in (check.metric.description if check.metric else "", check.reason) if part]
    return [
        bold(Markdown(check.status)),
        Markdown(f"{link(code(audit_name), f'#{anchor}', '')} {code(name)}"),
        Markdown(f"{measured} ({', '.join(levels)})" if levels else measured),
        Markdown(f"{expected} ({', '.join(operands)})" if operands else expected),
        Markdown("; ".join(descriptions)),
    ]


def _hints_section(report: Report) -> Iterator[Markdown]:
    yield heading(2, Markdown("Hints"))
    failed = [check for check in report.checks if check.status is CheckStatus.FAIL]
    yield (
        bullet_list(Markdown(f"{code(check.id)}: {escape(check.hint)}") for check in failed)
        if failed
        else Markdown("No check failed.")
    )


def _not_run_section(report: Report) -> Iterator[Markdown]:
    yield heading(2, Markdown("Not run"))
    missing = report.audits.missing()
    yield (
        bullet_list(
            Markdown(f"{code(file.name)}: no audit; {code(f'dvc repro {file.stage}@{file.subject}')} writes it") for file in missing
        )
        if missing
        else Markdown("Every stage that this report covers has written its audit.")
    )


def _examples_section(report: Report) -> Iterator[Markdown]:
    """Name the folders with the examples; `html.render_html` adds the examples themselves."""
    if report.examples:
        yield heading(2, Markdown(EXAMPLES_TITLE))
        yield Markdown("Generated content beside real content. The HTML version of this page shows and plays it; the files are in:")
        yield bullet_list(
            Markdown(f"{code(recipe.recipe)}: {link(code(recipe.folder), recipe.folder, '')}") for recipe in report.examples
        )


def _stage_section(report: Report, file: AuditFile) -> Iterator[Markdown]:
    audit = file.require_audit()
    yield heading(3, escape(file.name))
    settings = link(Markdown("settings"), f"#{slug(_settings_title(file))}", "") if audit.config else Markdown("no settings")
    yield Markdown(f"See its {settings} and its {link(Markdown('provenance'), f'#{slug(_provenance_title(file))}', '')}.")
    columns = [Markdown(word) for word in ("Metric", "Value", "Kind", "Description")]
    rows = [
        [code(name), cite(file, name, metric), escape(metric.kind), escape(metric.description)]
        for name, metric in audit.metrics.items()
    ]
    yield table(columns, rows, [False, True, False, False])
    for series in audit.series:
        yield from _plot_blocks(report, file, series)
    for table_data in audit.tables:
        yield from _table_blocks(file, table_data)


def _plot_blocks(report: Report, file: AuditFile, series: PlotSeries) -> Iterator[Markdown]:
    series_id = f"{file.name}.{series.name}"
    yield _caption(file, series.name, series.description)
    yield image(series.description, report.plots[series_id])


def _table_blocks(file: AuditFile, table_data: AuditTable) -> Iterator[Markdown]:
    yield _caption(file, table_data.name, table_data.description)
    yield cite_table(table_data)


def _caption(file: AuditFile, name: str, description: str) -> Markdown:
    return Markdown(f"{bold(escape(description))} {link(code(name), file.path, f'{file.name}.{name}')}")


def _settings_section(report: Report) -> Iterator[Markdown]:
    """List the resolved settings of every stage from its audit.

    Settings that differ from the defaults come first, in bold.
    """
    yield heading(2, Markdown("Settings"))
    yield Markdown("Settings in bold differ from the default; all others have their default value.")
    displayed: set[tuple[str, str]] = set()
    for file in report.audits.files:
        if file.audit is not None and file.audit.config:
            yield heading(3, escape(_settings_title(file)))
            yield bullet_list(_settings_lines(file, displayed))


def _settings_lines(file: AuditFile, displayed: set[tuple[str, str]]) -> Iterator[Markdown]:
    """Format one line for each section.

    A section that an earlier stage of the subject has shown is only named.
    """
    config = file.require_audit().config
    for section in dict.fromkeys(name for name, *_ in config):
        settings = [(key, value, is_default) for name, key, value, is_default in config if name == section]
        content = (file.subject, repr((section, settings)))
        if content in displayed:
            yield Markdown(f"{link(code(section), file.path, section)}: as above")
            continue
        displayed.add(content)
        changed = [f"{bold(escape(f'{key} = {display_value(value)}'))}" for key, value, is_default in settings if not is_default]
        unchanged = [f"{escape(f'{key} = {display_value(value)}')}" for key, value, is_default in settings if is_default]
        items = " · ".join([*changed, *unchanged]) or EMPTY_CELL
        yield Markdown(f"{link(code(section), file.path, section)}: {items}")


def _cards_paragraph(report: Report) -> Markdown:
    links = [link(escape(PurePosixPath(path).stem), path, "") for path in report.cards]
    return Markdown(f"The same results as cards for the Hugging Face Hub: {' · '.join(links) or EMPTY_CELL}")


def _provenance_section(file: AuditFile) -> Iterator[Markdown]:
    """Tabulate the provenance of an audit: files, digests, command and environment."""
    yield heading(3, escape(_provenance_title(file)))
    rows = [[Markdown("audit"), Markdown(f"{link(code(file.path), file.path, file.name)} {_digest_link(file, file.digest)}")]]
    provenance = dict(file.require_audit().provenance)
    for key in ("inputs", "outputs"):
        rows += [
            [Markdown(key), Markdown(f"{code(path)} {_digest_link(file, digest)}")] for path, digest in provenance.pop(key, [])
        ]
    digest_values = [(key, provenance.pop(key, "")) for key in ("params_digest", "code_digest", "commit")]
    dirty_note = " with uncommitted changes" if provenance.pop("dirty", False) else ""
    digests = " · ".join(f"{key.partition('_')[0]} {_digest_link(file, value)}" for key, value in digest_values)
    rows.append([Markdown("digests"), Markdown(f"{digests}{dirty_note}")])
    run_facts = [
        f"{escape(key)} {escape(value)}"
        for key, value in flatten({name: item for name, item in provenance.items() if name not in BULKY_KEYS})
    ]
    rows.append([Markdown("run"), Markdown(" · ".join(run_facts))])
    yield table([Markdown("key"), Markdown("value")], rows, [False, False])


def _provenance_title(file: AuditFile) -> str:
    return f"Audit: {file.name}"


def _settings_title(file: AuditFile) -> str:
    return f"Settings: {file.name}"


def _digest_link(file: AuditFile, digest: str) -> Markdown:
    return link(code(digest[:SHORT_DIGEST]), file.path, digest) if digest else EMPTY_CELL
