"""Evidence and checks in; a model card for each recipe and a dataset card for each corpus, as Hugging Face's hub reads them, out.

The headings are those of the hub's own templates. A number stands there by `cite` alone; what nobody recorded is said to be unknown.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML

from provenlm.core.audit import AuditTable, Metric
from provenlm.reporting.checks import CheckResult, CheckStatus
from provenlm.reporting.citations import cite
from provenlm.reporting.evidence import AuditFile, AuditSet, flatten
from provenlm.reporting.markdown import Markdown, bold, bullet_list, code, escape, heading, link, table

UNKNOWN = Markdown("Unknown: no stage records it.")
NOT_MEASURED = Markdown("not measured")
UNKNOWN_LICENSE = "unknown"  # as the hub spells it


@dataclass(frozen=True)
class Card:
    """What a card is about. `sources` by stage, their paths as the card links to them; `place`: the report, likewise."""

    name: str
    title: str
    report_path: str
    status: CheckStatus
    audit_files: Mapping[str, AuditFile]
    checks: Sequence[CheckResult]

    def metric(self, stage: str, name: str) -> Metric | None:
        file = self.audit_files.get(stage)
        return file.audit.metrics.get(name) if file and file.audit else None

    def cite(self, stage: str, name: str) -> Markdown:
        metric = self.metric(stage, name)
        return cite(self.audit_files[stage], name, metric) if metric else NOT_MEASURED

    def provenance(self, stage: str, key: str) -> Any:
        """A fact of the provenance; None if it is not there."""
        file = self.audit_files.get(stage)
        return file.audit.provenance.get(key) if file and file.audit else None

    def config_section(self, stage: str, section: str) -> Any:
        """What a stage was told: the slice of params.yaml that ends so; None if it was told nothing of the kind."""
        config_sections = self.provenance(stage, "params") or {}
        return next((value for key, value in config_sections.items() if key.endswith(f".{self.name}.{section}")), None)

    def tables(self, stage: str, prefix: str) -> list[AuditTable]:
        file = self.audit_files.get(stage)
        return [table_data for table_data in file.audit.tables if table_data.name.startswith(prefix)] if file and file.audit else []

    def status_paragraph(self) -> Markdown:
        """Where the numbers come from, and how the report judged."""
        report = link(escape(self.title), self.report_path, "")
        return Markdown(
            f"A part of the report {report}, whose verdict is {bold(Markdown(self.status))}. Every number links to the audit that "
            "it was read from; `python -m provenlm.cli.verify` checks this card with the report."
        )

    def settings(self, stage: str, section: str) -> Markdown:
        """The settings of a stage, key by key."""
        config = self.config_section(stage, section)
        if config is None:
            return NOT_MEASURED
        items = " · ".join(f"{escape(key)} {bold(escape(value))}" for key, value in flatten(config))
        return Markdown(f"{link(Markdown('Settings'), self.audit_files[stage].path, section)}: {items or 'none'}")

    def checks_table(self) -> Markdown:
        """Every check on a figure of this subject; a sentence if there is none."""
        own_checks = [
            (check, file) for check in self.checks for file in self.audit_files.values() if check.id.startswith(f"{file.name}.")
        ]
        columns = [Markdown(word) for word in ("Verdict", "Figure", "Measured", "Bound", "Meaning")]
        rows = [
            [
                bold(Markdown(check.status)),
                Markdown(f"{code(file.stage)} {code(check.id.removeprefix(f'{file.name}.'))}"),
                self.cite(file.stage, check.id.removeprefix(f"{file.name}.")),
                code(check.threshold.text) if check.threshold else Markdown("no exception"),
                escape(check.metric.description if check.metric else check.reason),
            ]
            for check, file in own_checks
        ]
        return table(columns, rows, [False, False, True, False, False]) if rows else Markdown("The report has no bound on it.")

    def failed_checks(self) -> Markdown:
        """The advice of each bound that failed on it."""
        names = [file.name for file in self.audit_files.values()]
        failures = [
            check
            for check in self.checks
            if check.status is CheckStatus.FAIL and any(check.id.startswith(f"{name}.") for name in names)
        ]
        return (
            bullet_list(Markdown(f"{code(check.id)}: {escape(check.hint)}") for check in failures)
            if failures
            else Markdown("No bound failed on it.")
        )


def render_card(
    title_prefix: str, subject: Card, metadata: Mapping[str, Any], sections: Iterable[tuple[int, str, Markdown]]
) -> str:
    """A page with `facts` as its YAML front matter."""
    blocks = [heading(1, escape(f"{title_prefix} {subject.name}")), subject.status_paragraph()]
    for depth, title, content in sections:
        blocks += [heading(depth, Markdown(title)), *([content] if content else [])]
    return f"---\n{_yaml(metadata)}---\n\n" + "\n\n".join(blocks) + "\n"


def definition_list(entries: Iterable[tuple[str, Markdown]]) -> Markdown:
    """Facts with their names, as the hub's templates set them."""
    return bullet_list(Markdown(f"{bold(Markdown(f'{name}:'))} {value}") for name, value in entries)


def by_subject(audits: AuditSet, folder: str) -> dict[str, dict[str, AuditFile]]:
    """The sources of each subject by stage, with paths as a page inside `folder` links to them."""
    files_by_subject: dict[str, dict[str, AuditFile]] = {}
    for file in audits.files:
        files_by_subject.setdefault(file.subject, {})[file.stage] = replace(file, path=f"{folder}{file.path}")
    return files_by_subject


def card_filename(subject: str) -> str:
    """The name of a subject's card; those of all subjects lie in one folder."""
    return f"{subject.replace('/', '-')}.md"


def _yaml(metadata: Mapping[str, Any]) -> str:
    writer = YAML()
    writer.width = 10**6
    stream = io.StringIO()
    writer.dump(dict(metadata), stream)
    return stream.getvalue()
