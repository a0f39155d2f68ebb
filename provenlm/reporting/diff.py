"""A report's version before in; what moved since, and by how much, as blocks of a page out."""

from collections.abc import Iterator
from typing import cast

from provenlm.core.audit import Figure
from provenlm.reporting.citations import cite
from provenlm.reporting.evidence import Evidence, Source
from provenlm.reporting.markdown import Markdown, bullets, code, heading, link, strong, table, text
from provenlm.reporting.number_format import exact, moved, shown
from provenlm.reporting.previous_version import Version, Versions

TITLE = Markdown("Since the version before")
COLUMNS = [Markdown(word) for word in ("Figure", "Before", "Now", "Moved", "Verdict")]
FLUSH = [False, True, True, True, False]


def compared(versions: Versions, evidence: Evidence, place: str) -> Iterator[Markdown]:
    """Blocks of the page. `place`: the file of versions as the page links to it."""
    yield heading(2, TITLE)
    now, before = versions.now, versions.before
    if before is None:
        yield Markdown("No version before this one is known.")
        return
    told = link(text(before.begun or before.status), place, "begun")
    yield Markdown(f"Compared with the version of {told}, whose verdict was {strong(text(before.status))}.")
    rows = [_row(source, name, figure, versions, place) for source, name, figure in _moved(before, now, evidence)]
    yield table(COLUMNS, rows, FLUSH) if rows else Markdown("No figure and no verdict moved.")
    yield from _listed("New", [name for name in now.figures if name not in before.figures])
    yield from _listed("Gone", [name for name in before.figures if name not in now.figures])


def _moved(before: Version, now: Version, evidence: Evidence) -> list[tuple[Source, str, Figure]]:
    """Figures of both versions whose value or verdict differs: those that a check holds to a bound first."""
    found = []
    for source in evidence.sources:
        for name, figure in source.audit.figures.items() if source.audit else ():
            key = f"{source.name}.{name}"
            if key in before.figures and (before.figures[key], before.checks.get(key)) != (figure.value, now.checks.get(key)):
                found.append((source, name, figure))
    return sorted(found, key=lambda item: f"{item[0].name}.{item[1]}" not in now.checks)


def _row(source: Source, name: str, figure: Figure, versions: Versions, place: str) -> list[Markdown]:
    key, before = f"{source.name}.{name}", cast(Version, versions.before)
    old, step = before.figures[key], moved(before.figures[key], figure.value, figure.unit)
    verdicts = [strong(text(status)) for status in (before.checks.get(key), versions.now.checks.get(key)) if status]
    return [
        Markdown(f"{code(source.name)} {code(name)}"),
        link(
            text(shown(old, figure.unit) or "(empty)"), place, f"{key}, before" if isinstance(old, str) else f"{key} = {exact(old)}"
        ),
        cite(source, name, figure),
        link(text(step), place, f"{key} = {exact(old)}, then {exact(figure.value)}") if step else Markdown("–"),
        Markdown(" → ".join(dict.fromkeys(verdicts))),
    ]


def _listed(word: str, names: list[str]) -> Iterator[Markdown]:
    if names:
        yield bullets([Markdown(f"{word}: {', '.join(code(name) for name in names)}")])
