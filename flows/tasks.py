"""One DVC stage as one Prefect task, and the stages of a plan in DVC's order: what the UI shows and the terminal prints."""

import base64
import contextvars
import re
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from flows import server  # noqa: F401  before Prefect, which reads its settings at import

# isort: split
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Cancelled, Completed, Failed

from flows import dvc_runner, process_groups, progress
from provenlm.core import audit as audits
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout

UNCHANGED = "DVC: unchanged"
CELL, MEANT = 26, 52  # characters of a line in a cell of a table, and below the name of a figure
FIGURE, MEANING = "Figure", "Meaning"  # heads of columns


@dataclass(frozen=True)
class Outcome:
    """How one stage of a flow ended."""

    stage: str
    how: dvc_runner.How
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where stages run: `root`, a checkout; how many at once; and the locks of which a training takes one."""

    root: Path
    jobs: int
    slots: Sequence[Path]


def run(steps: Sequence[dvc_runner.Step], place: Place) -> list[Outcome]:
    """Run `steps`, each as a task when those that it reads from are done, up to `place.jobs` side by side.

    After a failure nothing new is begun, what runs is let finish, and StageError says the first. An exception in this thread (an
    interrupt, a cancellation) stops all of them, and they have had their time for a checkpoint when it goes on its way.
    """
    waiting = {step.stage: step for step in steps}
    states: dict[str, State[Any]] = {}
    running: dict[Future[tuple[State[Any], float]], dvc_runner.Step] = {}
    outcomes: dict[str, Outcome] = {}
    failed: list[State[Any]] = []
    crew = process_groups.Crew()
    with ThreadPoolExecutor(place.jobs) as pool:
        try:
            while running or (waiting and not failed):
                for step in [] if failed else _ready(waiting, running.values())[: place.jobs - len(running)]:
                    del waiting[step.stage]
                    needed = [states[need] for need in step.needs if need in states]
                    running[pool.submit(contextvars.copy_context().run, _one, step, needed, place, crew)] = step
                if not running:
                    raise RuntimeError(f"each of these waits for another of them: {', '.join(waiting)}")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step, (state, seconds) = running.pop(future), future.result()
                    states[step.stage] = state
                    if state.is_completed():
                        outcomes[step.stage] = Outcome(step.stage, "cached" if state.name == "Cached" else "ran", seconds)
                    else:
                        failed.append(state)
        except BaseException:
            crew.end()
            raise
    for state in failed:
        state.result()  # raises what made it fail
    return [outcomes[step.stage] for step in steps]


def _ready(waiting: Mapping[str, dvc_runner.Step], running: Iterable[dvc_runner.Step]) -> list[dvc_runner.Step]:
    """Those that read from nothing that is still to come, in DVC's order."""
    ahead = waiting.keys() | {step.stage for step in running}
    return [step for step in waiting.values() if ahead.isdisjoint(step.needs)]


def _one(step: dvc_runner.Step, needed: list[State[Any]], place: Place, crew: process_groups.Crew) -> tuple[State[Any], float]:
    started = time.monotonic()
    fresh = not step.changed and not step.force and all(state.message == UNCHANGED for state in needed)
    state = stage.with_options(name=step.kind)(step, fresh, place, crew, return_state=True, wait_for=needed)
    return state, time.monotonic() - started


@task(name="stage", task_run_name="{step.stage}", cache_policy=NO_CACHE)  # what is cached is for DVC alone to say
def stage(step: dvc_runner.Step, fresh: bool, place: Place, crew: process_groups.Crew) -> State[None]:
    """Reproduce one stage. `fresh`: nothing it rests on changed, so DVC need not even be started."""
    log = get_run_logger()
    if fresh:
        log.info("cached")
        return Completed(name="Cached", message=UNCHANGED)
    log.info("started")
    started = time.monotonic()
    try:
        with progress.listening(step.stage, key(f"progress-{step.stage}"), log.info) as listen:
            how = dvc_runner.repro(step, place.root, listen, crew, place.slots)
        if how == "ran":
            _publish_figures(step, Layout(place.root))
    except dvc_runner.StoppedError as error:
        return Cancelled(message=str(error), data=error)
    except (UserError, dvc_runner.StageError) as error:
        return Failed(message=str(error), data=error)  # no stack trace: it is told in one line
    if how != "ran":
        log.info(how)
        return Completed(name="Cached", message=UNCHANGED if how == "cached" else "DVC: made before, and kept")
    done = f"done in {time.monotonic() - started:.1f} s"
    log.info(done)
    return Completed(message=done)


def _publish_figures(step: dvc_runner.Step, layout: Layout) -> None:
    audit = audits.read(layout.audit(step.subject, step.kind))
    rows = [
        {"figure": name, "value": _short(figure.value), "unit": figure.unit, "kind": figure.kind, "meaning": figure.meaning}
        for name, figure in audit.figures.items()
    ]
    create_table_artifact(table=rows, key=key(step.stage), description=f"figures of {step.stage}")


def _short(value: audits.Value) -> audits.Value:
    """Six digits, which fit into a column; the audit has all of them."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def key(name: str) -> str:
    """Prefect's artifact keys know lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def as_artifact(markdown: str, folder: Path) -> str:
    """`markdown` with its SVG pictures, named relative to `folder`, inside, and its links into files as plain words.

    An artifact has no files beside it. Prefect's pages never break a line in a table and cut off what is too wide, so long cells are
    broken here, and what a figure means stands below its name.
    """

    def picture(found: re.Match[str]) -> str:
        return f"](data:image/svg+xml;base64,{base64.b64encode((folder / found[1]).read_bytes()).decode()})"

    shown = re.sub(r"\]\(([^():]+\.svg)\)", picture, markdown)
    words = re.sub(r'(?<!!)\[([^\[\]]*)\]\((?!https?:)[^()"]*("[^"]*")?\)', r"\1", shown)
    lines = groupby(words.split("\n"), lambda line: line.startswith("| "))
    return "\n".join(line for rows, found in lines for line in (_narrow(list(found)) if rows else found))


def _narrow(rows: list[str]) -> Iterator[str]:
    """The rows of a table: head, rule and body."""
    cells = [row.removeprefix("| ").removesuffix(" |").split(" | ") for row in rows]
    wide = cells[0].index(FIGURE) if cells[0][-1] == MEANING and FIGURE in cells[0] else None
    below = [row.pop() for row in cells] if wide is not None else []
    shown = [[_broken(cell, MEANT if place == wide else CELL) for place, cell in enumerate(row)] for row in cells]
    for row, meaning in zip(shown[2:], below[2:], strict=bool(below)):
        row[wide or 0] += f"<br>{_broken(meaning, MEANT)}" if meaning else ""
    return (f"| {' | '.join(row)} |" for row in shown)


def _broken(cell: str, width: int) -> str:
    """In lines, broken between words and never within code."""
    whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\u00a0"), cell)
    return "<br>".join(textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False))
