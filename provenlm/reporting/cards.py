"""Provide the common parts of the Hugging Face model cards and dataset cards.

The headings are those of the Hub's templates. Every number is a citation; what no stage recorded is stated as unknown.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML

from provenlm.core.audit import NOT_APPLICABLE, AuditTable, Metric
from provenlm.reporting.checks import CheckResult, CheckStatus
from provenlm.reporting.citations import cite
from provenlm.reporting.evidence import AuditFile, AuditSet, display_value, flatten, why_not_applicable
from provenlm.reporting.markdown import Markdown, bold, bullet_list, code, escape, heading, link, table

UNKNOWN = Markdown("Unknown: no stage records it.")
NOT_MEASURED = Markdown("not measured")
REFERENCE_MODELS = "reference_models"  # scope of the metrics of shapes that were counted and not trained
UNKNOWN_LICENSE = "unknown"  # the identifier that the Hub uses


@dataclass(frozen=True)
class Card:
    """Hold what a card describes: audit files by stage, and the report.

    Both have paths relative to the card. `report_path` is "" for a card that is part of no report.
    """

    name: str
    title: str
    report_path: str
    status: CheckStatus
    audit_files: Mapping[str, AuditFile]
    checks: Sequence[CheckResult]

    def metric(self, stage: str, name: str) -> Metric | None:
        """Return a metric of a stage, or None if it was not recorded."""
        file = self.audit_files.get(stage)
        return file.audit.metrics.get(name) if file and file.audit else None

    def cite(self, stage: str, name: str) -> Markdown:
        """Cite a metric of a stage, or state that it was not measured or does not apply."""
        if metric := self.metric(stage, name):
            return cite(self.audit_files[stage], name, metric)
        file = self.audit_files.get(stage)
        reason = why_not_applicable(file.audit, name) if file and file.audit else None
        return Markdown(f"{NOT_APPLICABLE} ({escape(reason)})") if reason else NOT_MEASURED

    def provenance(self, stage: str, key: str) -> Any:
        """Return one entry of a stage's provenance, or None."""
        file = self.audit_files.get(stage)
        return file.audit.provenance.get(key) if file and file.audit else None

    def config_section(self, stage: str, section: str) -> Any:
        """Return the configuration section of this subject that a stage recorded, or None."""
        config_sections = self.provenance(stage, "params") or {}
        return next((value for key, value in config_sections.items() if key.endswith(f".{self.name}.{section}")), None)

    def tables(self, stage: str, prefix: str) -> list[AuditTable]:
        """Return the tables of a stage whose names start with `prefix`."""
        file = self.audit_files.get(stage)
        return [table_data for table_data in file.audit.tables if table_data.name.startswith(prefix)] if file and file.audit else []

    def status_paragraph(self) -> Markdown:
        """State the verdict of the report and where the numbers come from."""
        if not self.report_path:
            return Markdown("Every number links to the audit that contains it. No report checks this card.")
        report = link(escape(self.title), self.report_path, "")
        return Markdown(
            f"Part of the report {report}; its verdict is {bold(Markdown(self.status))}. Every number links to the audit that "
            "contains it; `provenlm verify` checks this card together with the report."
        )

    def settings_line(self, stage: str, section: str) -> Markdown:
        """List the configuration section of a stage, key by key."""
        file, recorded = self.audit_files.get(stage), self.config_section(stage, section)
        resolved = [entry for entry in file.audit.config if entry[0] == section] if file and file.audit else []
        if recorded is None and not resolved:
            return NOT_MEASURED
        settings = [(key, display_value(value)) for _, key, value, _ in resolved] or flatten(recorded)
        items = " · ".join(f"{escape(key)} {bold(escape(value))}" for key, value in settings)
        return Markdown(f"{link(Markdown('Settings'), self.audit_files[stage].path, section)}: {items or 'none'}")

    def _own_checks(self) -> list[CheckResult]:
        """Return the checks on this subject, without those on reference models."""
        names = [file.name for file in self.audit_files.values()]
        return [
            check for check in self.checks if any(check.id.startswith(f"{name}.") for name in names) and describes_subject(check.id)
        ]

    def checks_table(self) -> Markdown:
        """Tabulate the checks on metrics of this subject."""
        own_checks = [
            (check, file)
            for check in self._own_checks()
            for file in self.audit_files.values()
            if check.id.startswith(f"{file.name}.")
        ]
        columns = [Markdown(word) for word in ("Status", "Metric", "Measured", "Expected", "Description")]
        rows = [
            [
                bold(Markdown(check.status)),
                Markdown(f"{code(file.stage)} {code(check.id.removeprefix(f'{file.name}.'))}"),
                self.cite(file.stage, check.id.removeprefix(f"{file.name}.")) if check.metric else Markdown("–"),
                code(check.expect),
                escape(check.metric.description if check.metric else check.reason),
            ]
            for check, file in own_checks
        ]
        return (
            table(columns, rows, [False, False, True, False, False])
            if rows
            else Markdown("The report has no check on it." if self.report_path else "No report checks it.")
        )

    def failed_checks(self) -> Markdown:
        """List the hint of each failed check on this subject."""
        failures = [check for check in self._own_checks() if check.status is CheckStatus.FAIL]
        return (
            bullet_list(Markdown(f"{code(check.id)}: {escape(check.hint)}") for check in failures)
            if failures
            else Markdown("No check on it failed.")
        )


def render_card(
    title_prefix: str, subject: Card, metadata: Mapping[str, Any], sections: Iterable[tuple[int, str, Markdown]]
) -> str:
    """Render a card with `metadata` as its YAML front matter."""
    blocks = [heading(1, escape(f"{title_prefix} {subject.name}")), subject.status_paragraph()]
    for depth, title, content in sections:
        blocks += [heading(depth, Markdown(title)), *([content] if content else [])]
    return f"---\n{_yaml(metadata)}---\n\n" + "\n\n".join(blocks) + "\n"


def describes_subject(metric_id: str) -> bool:
    """Return whether a metric describes the subject, not a reference model.

    Reference models are never trained; only their shape is counted.
    """
    return REFERENCE_MODELS not in metric_id.split(".")


def definition_list(entries: Iterable[tuple[str, Markdown]]) -> Markdown:
    """Format names and values as the bullet list that the Hub's templates use."""
    return bullet_list(Markdown(f"{bold(Markdown(f'{name}:'))} {value}") for name, value in entries)


def by_subject(audits: AuditSet, folder: str) -> dict[str, dict[str, AuditFile]]:
    """Group audit files by subject and stage, with `folder` before their link paths."""
    files_by_subject: dict[str, dict[str, AuditFile]] = {}
    for file in audits.files:
        files_by_subject.setdefault(file.subject, {})[file.stage] = replace(file, path=f"{folder}{file.path}")
    return files_by_subject


def card_filename(subject: str) -> str:
    """Return the file name of a subject's card.

    The cards of all subjects share one folder.
    """
    return f"{subject.replace('/', '-')}.md"


def _yaml(metadata: Mapping[str, Any]) -> str:
    writer = YAML()
    writer.width = 10**6
    stream = io.StringIO()
    writer.dump(dict(metadata), stream)
    return stream.getvalue()
