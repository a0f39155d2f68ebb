"""Sources and bounds in; every file of a report, as bytes by name, out. The same sources and bounds give the same bytes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provenlm.core.audit import Audit, Recorder
from provenlm.core.errors import UserError
from provenlm.reporting import cards, html, plots, previous_version, thresholds
from provenlm.reporting import checks as judge
from provenlm.reporting.dataset_card import dataset_card
from provenlm.reporting.evidence import Evidence, Source
from provenlm.reporting.model_card import model_card
from provenlm.reporting.page import BULKY, Report, render

UNFIT = re.compile(r"[^\w.-]", re.ASCII)  # in the name of a file
SIGNED = ("command", "params_digest", "code_digest", "commit", "dirty", "seed", "device", "versions", "started")


@dataclass(frozen=True)
class Rendering:
    """What a report consists of: its files by address below the folder of reports, its sources, its status, its counts as figures."""

    sources: Sequence[Source]
    files: Mapping[str, bytes]
    status: judge.Status
    counts: Recorder


def rendering(
    name: str,
    title: str,
    sources: Sequence[Source],
    own: Source,
    rows: Mapping[str, Mapping[str, str]],
    where: str,
    known: previous_version.Versions | None,
) -> Rendering:
    """The report `name`. `own`: where its own audit will lie; `rows`: its bounds, which `where` names in a UserError's message.

    `known`: what the file of its versions says, before this one is added.
    """
    evidence = Evidence(tuple(sources))
    checks = judge.judge(evidence, thresholds.wanted(rows, where), where)
    counts = Recorder()
    judge.record(checks, counts)
    audit = Audit(own.subject, own.stage, counts.figures, (), (), {})
    drawn = {identity: plots.draw(series) for identity, series in _series(sources).items()}
    places = {identity: f"{name}_files/{UNFIT.sub('-', identity)}.svg" for identity in drawn}
    if len(set(places.values())) < len(places):
        raise UserError(f"{where}: two series would be drawn into one file: {sorted(places)}")
    told = previous_version.advanced(known, previous_version.version(evidence, checks))
    memory, described = f"{name}_versions.json", _cards(name, title, evidence, checks)
    report = Report(
        title, evidence, Source(own.subject, own.stage, own.path, "", audit), checks, places, told, memory, list(described)
    )
    page = render(report)
    pictures = {places[identity]: drawn[identity] for identity in drawn}
    written = {
        f"{name}.md": page.encode(),
        f"{name}.html": html.page(page, title, pictures).encode(),
        memory: told.file(),
        f"{name}.json": (json.dumps(summary(name, report), indent=2, ensure_ascii=False) + "\n").encode(),
    }
    return Rendering(sources, {**written, **described, **pictures}, judge.verdict(checks), counts)


def _cards(name: str, title: str, evidence: Evidence, checks: Sequence[judge.Check]) -> dict[str, bytes]:
    """A card for each recipe and each corpus that left an audit, one folder below the page."""
    written = {}
    for subject, sources in cards.subjects(evidence, "../").items():
        if any(source.audit for source in sources.values()):
            about = cards.Card(subject, title, f"../{name}.md", judge.verdict(checks), sources, checks)
            make = model_card if "train" in sources else dataset_card
            written[f"{name}_cards/{cards.file_of(subject)}"] = make(about).encode()
    return written


def summary(name: str, report: Report) -> dict[str, Any]:
    """The verdict and its claims for programs. Claims and sources are lists, so that `dvc metrics` shows the counts alone."""
    figures = report.own.present().figures
    return {
        "report": name,
        "status": judge.verdict(report.checks).value,
        **{key: figure.value for key, figure in figures.items() if key != "verdict"},
        "checks": [_claim(report, check) for check in report.checks],
        "sources": [_origin(source) for source in report.evidence.sources],
    }


def _claim(report: Report, check: judge.Check) -> dict[str, Any]:
    """One check with all that is needed to doubt it; null for what its stage did not record (a scrape has no seed)."""
    figure, source = check.figure, report.evidence.source(check.id, report.title)
    facts = source.audit.provenance if source.audit else {}
    return {
        "id": check.id,
        "status": check.status.value,
        "reason": check.reason,
        "bound": check.bound.text if check.bound else None,
        "value": figure.value if figure else None,
        "unit": figure.unit if figure else None,
        "kind": figure.kind if figure else None,
        "limits": [[name, limit.value] for name, limit in check.limits.items()],
        "advice": check.advice,
        "meaning": figure.meaning if figure else None,
        "audit": source.path,
        "digest": source.digest or None,
        **{fact: facts.get(fact) for fact in SIGNED},
    }


def _origin(source: Source) -> dict[str, Any]:
    provenance = source.audit.provenance if source.audit else {}
    facts = {key: value for key, value in provenance.items() if key not in BULKY}
    return {"audit": source.path, "digest": source.digest, "present": source.audit is not None, **facts}


def _series(sources: Sequence[Source]) -> dict[str, Any]:
    return {f"{source.name}.{series.name}": series for source in sources if source.audit for series in source.audit.series}
