"""Evidence and checks in; a model card for each recipe and a dataset card for each corpus, as Hugging Face's hub reads them, out.

The headings are those of the hub's own templates. A number stands there by `cite` alone; what nobody recorded is said to be unknown.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML

from provenlm.core.audit import Figure, Table
from provenlm.reporting.checks import Check, Status
from provenlm.reporting.citations import cite
from provenlm.reporting.evidence import Evidence, Source, leaves
from provenlm.reporting.markdown import Markdown, bullets, code, heading, link, strong, table, text

UNKNOWN = Markdown("Unknown: no stage records it.")
UNMEASURED = Markdown("not measured")
NO_LICENCE = "unknown"  # as the hub spells it


@dataclass(frozen=True)
class Card:
    """What a card is about. `sources` by stage, their paths as the card links to them; `place`: the report, likewise."""

    name: str
    title: str
    place: str
    status: Status
    sources: Mapping[str, Source]
    checks: Sequence[Check]

    def figure(self, stage: str, name: str) -> Figure | None:
        source = self.sources.get(stage)
        return source.audit.figures.get(name) if source and source.audit else None

    def cited(self, stage: str, name: str) -> Markdown:
        figure = self.figure(stage, name)
        return cite(self.sources[stage], name, figure) if figure else UNMEASURED

    def fact(self, stage: str, key: str) -> Any:
        """A fact of the provenance; None if it is not there."""
        source = self.sources.get(stage)
        return source.audit.provenance.get(key) if source and source.audit else None

    def setting(self, stage: str, section: str) -> Any:
        """What a stage was told: the slice of params.yaml that ends so; None if it was told nothing of the kind."""
        slices = self.fact(stage, "params") or {}
        return next((value for key, value in slices.items() if key.endswith(f".{self.name}.{section}")), None)

    def tables(self, stage: str, prefix: str) -> list[Table]:
        source = self.sources.get(stage)
        return [item for item in source.audit.tables if item.name.startswith(prefix)] if source and source.audit else []

    def verdict(self) -> Markdown:
        """Where the numbers come from, and how the report judged."""
        report = link(text(self.title), self.place, "")
        return Markdown(
            f"A part of the report {report}, whose verdict is {strong(Markdown(self.status))}. Every number links to the audit that "
            "it was read from; `python -m provenlm.cli.verify` checks this card with the report."
        )

    def told(self, stage: str, section: str) -> Markdown:
        """The settings of a stage, key by key."""
        found = self.setting(stage, section)
        if found is None:
            return UNMEASURED
        words = " · ".join(f"{text(key)} {strong(text(value))}" for key, value in leaves(found))
        return Markdown(f"{link(Markdown('Settings'), self.sources[stage].path, section)}: {words or 'none'}")

    def checked(self) -> Markdown:
        """Every check on a figure of this subject; a sentence if there is none."""
        own = [
            (check, source) for check in self.checks for source in self.sources.values() if check.id.startswith(f"{source.name}.")
        ]
        columns = [Markdown(word) for word in ("Verdict", "Figure", "Measured", "Bound", "Meaning")]
        rows = [
            [
                strong(Markdown(check.status)),
                Markdown(f"{code(source.stage)} {code(check.id.removeprefix(f'{source.name}.'))}"),
                self.cited(source.stage, check.id.removeprefix(f"{source.name}.")),
                code(check.bound.text) if check.bound else Markdown("no exception"),
                text(check.figure.meaning if check.figure else check.reason),
            ]
            for check, source in own
        ]
        return table(columns, rows, [False, False, True, False, False]) if rows else Markdown("The report has no bound on it.")

    def failed(self) -> Markdown:
        """The advice of each bound that failed on it."""
        names = [source.name for source in self.sources.values()]
        found = [c for c in self.checks if c.status is Status.FAIL and any(c.id.startswith(f"{name}.") for name in names)]
        return (
            bullets(Markdown(f"{code(check.id)}: {text(check.advice)}") for check in found)
            if found
            else Markdown("No bound failed on it.")
        )


def card(of: str, about: Card, facts: Mapping[str, Any], sections: Iterable[tuple[int, str, Markdown]]) -> str:
    """A page with `facts` as its YAML front matter."""
    blocks = [heading(1, text(f"{of} {about.name}")), about.verdict()]
    for depth, title, said in sections:
        blocks += [heading(depth, Markdown(title)), *([said] if said else [])]
    return f"---\n{_yaml(facts)}---\n\n" + "\n\n".join(blocks) + "\n"


def listed(rows: Iterable[tuple[str, Markdown]]) -> Markdown:
    """Facts with their names, as the hub's templates set them."""
    return bullets(Markdown(f"{strong(Markdown(f'{name}:'))} {said}") for name, said in rows)


def subjects(evidence: Evidence, folder: str) -> dict[str, dict[str, Source]]:
    """The sources of each subject by stage, with paths as a page inside `folder` links to them."""
    found: dict[str, dict[str, Source]] = {}
    for source in evidence.sources:
        found.setdefault(source.subject, {})[source.stage] = replace(source, path=f"{folder}{source.path}")
    return found


def file_of(subject: str) -> str:
    """The name of a subject's card; those of all subjects lie in one folder."""
    return f"{subject.replace('/', '-')}.md"


def _yaml(facts: Mapping[str, Any]) -> str:
    writer = YAML()
    writer.width = 10**6
    file = io.StringIO()
    writer.dump(dict(facts), file)
    return file.getvalue()
