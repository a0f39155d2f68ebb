"""Audits and bounds in; the report of what was measured, as Markdown, HTML and JSON with its plots, out."""

import os
from pathlib import Path

from provenlm.core import audit as audits
from provenlm.core import hashing, io
from provenlm.core.paths import Layout
from provenlm.core.progress import say
from provenlm.reporting import previous_version
from provenlm.reporting.evidence import Source
from provenlm.reporting.render import Rendering, rendering
from stages import runner

CORPUS_STAGES = ("scrape", "filter", "dedupe", "tokenize")
RECIPE_STAGES = ("train", "validate")


def body(run: runner.Run) -> None:
    made = rendered(run)
    layout, folder = run.layout, run.layout.report(run.subject, "md").parent
    for old in (layout.plots(run.subject), layout.cards(run.subject)):
        with io.new_folder(run.writes(old)):
            pass  # what an earlier run left goes
    for address, data in made.files.items():
        io.write_bytes(folder / address, data)
    for path in layout.pages(run.subject):
        run.writes(path)
    for name, figure in made.counts.figures.items():
        run.audit.add(name, figure)
    counts = {name.removeprefix("checks."): figure.value for name, figure in made.counts.figures.items() if name != "verdict"}
    say(f"{run.subject}: {made.status}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    say(layout.report(run.subject, "md").relative_to(layout.root).as_posix())


def rendered(run: runner.Run) -> Rendering:
    """The report as its audits and bounds have it now; nothing is written."""
    title = run.settings("title", str)
    corpora = run.settings("corpora", tuple[str, ...])
    run.settings("recipes", tuple[str, ...])
    rows = run.settings("bounds", dict[str, dict[str, str]])
    named = [(c, s) for c in corpora for s in CORPUS_STAGES] + [
        (r, s) for r in run.params.covered(run.subject) for s in RECIPE_STAGES
    ]
    sources = [source(run, subject, name) for subject, name in named]
    own = Source(run.subject, run.stage, address(run.layout, run.layout.audit(run.subject, run.stage)), "", None)
    place = run.params.where("reports", run.subject, "bounds")
    return rendering(run.subject, title, sources, own, rows, place, known(run.layout.versions(run.subject)))


def known(path: Path) -> previous_version.Versions | None:
    """What the report said when it was made last; None if it never was."""
    return previous_version.read(path.read_bytes(), path.as_posix()) if path.exists() else None


def source(run: runner.Run, subject: str, name: str) -> Source:
    """The audit of one stage, declared as read; a stage that was not run leaves a source without audit."""
    path = run.layout.audit(subject, name)
    if not path.exists():
        return Source(subject, name, address(run.layout, path), "", None)
    found = audits.read(run.reads(path))
    return Source(subject, name, address(run.layout, path), hashing.of_file(path), found)


def address(layout: Layout, path: Path) -> str:
    """`path` as a page in the folder of reports links to it."""
    return Path(os.path.relpath(path, layout.report("", "md").parent)).as_posix()


if __name__ == "__main__":
    runner.main("report", "reports", body, __doc__)
