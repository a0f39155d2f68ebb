"""Evidence and checks in, the Markdown of a report out: verdict, checks, advice, what was not run, stages, what moved, sources.

A number gets onto the page through `cite` alone, or as text that an audit or params.yaml wrote; the names that link to a
heading, an audit or a plot are built from ids. The same evidence and checks give the same page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from provenlm.core.audit import Figure, Series, Table
from provenlm.reporting.checks import Check, Status, counted, verdict
from provenlm.reporting.citations import cite, tabled
from provenlm.reporting.diff import compared
from provenlm.reporting.evidence import Evidence, Source, leaves, split
from provenlm.reporting.markdown import Markdown, bullets, code, heading, image, link, slug, strong, table, text
from provenlm.reporting.previous_version import Versions

SHORT = 16  # letters of a digest that a page shows; the rest is under the pointer
BULKY = ("params", "code")  # the audit holds them; the page shows their digests
NOTHING = Markdown("–")
RULES = Markdown(
    "The verdict is the worst status among the checks: PASS needs every bound to hold on a figure that was measured or counted. "
    "This page is a function of the audits under Sources, of the bounds in params.yaml and of what it said before; every number "
    "links to its audit, and shows its id and its exact value under the pointer. The mark ≈ stands before an estimate."
)


@dataclass(frozen=True)
class Report:
    """All that a page shows. `own` is the report's own audit: its counts of checks. `plots`: files by the id of their series."""

    title: str
    evidence: Evidence
    own: Source
    checks: Sequence[Check]
    plots: Mapping[str, str]
    versions: Versions
    memory: str  # the file of versions
    cards: Sequence[str]  # files, named after the subjects that they describe


def render(report: Report) -> str:
    """The page as Markdown: one blank line between blocks, a newline at the end."""
    blocks = [heading(1, text(report.title)), *_verdict(report), *_checks(report), *_advice(report), *_not_run(report)]
    subject = ""
    for source in report.evidence.sources:
        if source.audit is not None:
            blocks += [heading(2, text(source.subject))] if source.subject != subject else []
            blocks += _stage(report, source)
            subject = source.subject
    blocks += compared(report.versions, report.evidence, report.memory)
    blocks += [heading(2, Markdown("Sources")), _cards(report)]
    blocks += [block for source in report.evidence.sources if source.audit is not None for block in _source(source)]
    return "\n\n".join(blocks) + "\n"


def _cited(report: Report, identity: str, figure: Figure) -> Markdown:
    return cite(report.evidence.source(identity, report.title), split(identity)[1], figure)


def _verdict(report: Report) -> Iterator[Markdown]:
    audit = report.own.present()
    counts = {name: cite(report.own, name, figure) for name, figure in audit.figures.items() if name.startswith("checks.")}
    status = strong(Markdown(verdict(report.checks)))
    words = " · ".join(f"{counts[name]} {word.value}" for word in Status if (name := counted(word)))
    yield Markdown(f"{status} {counts['checks.total']}: {words}")
    yield RULES


def _checks(report: Report) -> Iterator[Markdown]:
    yield heading(2, Markdown("Checks"))
    columns = [Markdown(word) for word in ("Verdict", "Figure", "Measured", "Bound", "Meaning")]
    yield table(columns, [_check(report, check) for check in report.checks], [False, False, True, False, False])


def _check(report: Report, check: Check) -> list[Markdown]:
    source, name = split(check.id)
    section = slug(source) if report.evidence.source(check.id, report.title).audit else slug("Not run")
    measured = _cited(report, check.id, check.figure) if check.figure else NOTHING
    beside = [f"{identity.rpartition('.')[2]} {_cited(report, identity, figure)}" for identity, figure in check.beside.items()]
    bound = code(check.bound.text) if check.bound else Markdown("no exception")
    limits = [_cited(report, identity, figure) for identity, figure in check.limits.items()]
    meaning = [text(words) for words in (check.figure.meaning if check.figure else "", check.reason) if words]
    return [
        strong(Markdown(check.status)),
        Markdown(f"{link(code(source), f'#{section}', '')} {code(name)}"),
        Markdown(f"{measured} ({', '.join(beside)})" if beside else measured),
        Markdown(f"{bound} ({', '.join(limits)})" if limits else bound),
        Markdown("; ".join(meaning)),
    ]


def _advice(report: Report) -> Iterator[Markdown]:
    yield heading(2, Markdown("Advice"))
    failed = [check for check in report.checks if check.status is Status.FAIL]
    yield (
        bullets(Markdown(f"{code(check.id)}: {text(check.advice)}") for check in failed)
        if failed
        else Markdown("No bound failed: no advice.")
    )


def _not_run(report: Report) -> Iterator[Markdown]:
    yield heading(2, Markdown("Not run"))
    absent = report.evidence.absent()
    yield (
        bullets(Markdown(f"{code(s.name)}: no audit; {code(f'dvc repro {s.stage}@{s.subject}')} writes it") for s in absent)
        if absent
        else Markdown("Every stage that this report covers has left its audit.")
    )


def _stage(report: Report, source: Source) -> Iterator[Markdown]:
    audit = source.present()
    yield heading(3, text(source.name))
    yield Markdown(f"Signed under {link(Markdown('Sources'), f'#{slug(_source_title(source))}', '')}.")
    columns = [Markdown(word) for word in ("Figure", "Value", "Kind", "Meaning")]
    rows = [[code(name), cite(source, name, f), text(f.kind), text(f.meaning)] for name, f in audit.figures.items()]
    yield table(columns, rows, [False, True, False, False])
    for series in audit.series:
        yield from _plot(report, source, series)
    for item in audit.tables:
        yield from _table(source, item)
    yield from _settings(source, audit.provenance.get("params", {}))


def _plot(report: Report, source: Source, series: Series) -> Iterator[Markdown]:
    identity = f"{source.name}.{series.name}"
    yield _caption(source, series.name, series.meaning)
    yield image(series.meaning, report.plots[identity])


def _table(source: Source, item: Table) -> Iterator[Markdown]:
    yield _caption(source, item.name, item.meaning)
    yield tabled(item)


def _caption(source: Source, name: str, meaning: str) -> Markdown:
    return Markdown(f"{strong(text(meaning))} {link(code(name), source.path, f'{source.name}.{name}')}")


def _settings(source: Source, slices: Mapping[str, Any]) -> Iterator[Markdown]:
    """What the stage was told, from the audit's own copy of params.yaml."""
    for where, value in slices.items():
        words = [Markdown(f"{text(key)} {strong(text(item))}") for key, item in leaves(value)]
        yield Markdown(f"{link(Markdown('Settings'), source.path, where)} {code(where)}: {' · '.join(words) or NOTHING}")


def _cards(report: Report) -> Markdown:
    named = [link(text(PurePosixPath(place).stem), place, "") for place in report.cards]
    return Markdown(f"The same evidence as cards for the hub of Hugging Face: {' · '.join(named) or NOTHING}")


def _source(source: Source) -> Iterator[Markdown]:
    """Who measured, when, with what: the audit's provenance, line by line."""
    yield heading(3, text(_source_title(source)))
    rows = [[Markdown("audit"), Markdown(f"{link(code(source.path), source.path, source.name)} {_digest(source, source.digest)}")]]
    facts = dict(source.present().provenance)
    for key in ("inputs", "outputs"):
        rows += [[Markdown(key), Markdown(f"{code(path)} {_digest(source, digest)}")] for path, digest in facts.pop(key, [])]
    signed = [(key, facts.pop(key, "")) for key in ("params_digest", "code_digest", "commit")]
    changed = " with uncommitted changes" if facts.pop("dirty", False) else ""
    words = " · ".join(f"{key.partition('_')[0]} {_digest(source, value)}" for key, value in signed)
    rows.append([Markdown("signed"), Markdown(f"{words}{changed}")])
    run = [f"{text(key)} {text(value)}" for key, value in leaves({k: v for k, v in facts.items() if k not in BULKY})]
    rows.append([Markdown("run"), Markdown(" · ".join(run))])
    yield table([Markdown("fact"), Markdown("value")], rows, [False, False])


def _source_title(source: Source) -> str:
    return f"Source: {source.name}"


def _digest(source: Source, digest: str) -> Markdown:
    return link(code(digest[:SHORT]), source.path, digest) if digest else NOTHING
