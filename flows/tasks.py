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
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths

UNCHANGED_MESSAGE = "DVC: unchanged"
CELL_WIDTH, DESCRIPTION_WIDTH = 26, 52  # characters of a line in a cell of a table, and below the name of a figure
METRIC_HEADER, DESCRIPTION_HEADER = "Figure", "Meaning"  # heads of columns


@dataclass(frozen=True)
class StageResult:
    """How one stage of a flow ended."""

    stage: str
    status: dvc_runner.StageStatus
    seconds: float


@dataclass(frozen=True)
class RunLocation:
    """Where stages run: `root`, a checkout; how many at once; and the locks of which a training takes one."""

    root: Path
    jobs: int
    train_locks: Sequence[Path]


def run_stages(steps: Sequence[dvc_runner.PlannedStage], location: RunLocation) -> list[StageResult]:
    """Run `steps`, each as a task when those that it reads from are done, up to `place.jobs` side by side.

    After a failure nothing new is begun, what runs is let finish, and StageError says the first. An exception in this thread (an
    interrupt, a cancellation) stops all of them, and they have had their time for a checkpoint when it goes on its way.
    """
    waiting = {step.address: step for step in steps}
    states: dict[str, State[Any]] = {}
    running: dict[Future[tuple[State[Any], float]], dvc_runner.PlannedStage] = {}
    results: dict[str, StageResult] = {}
    failed_states: list[State[Any]] = []
    processes = process_groups.ProcessSet()
    with ThreadPoolExecutor(location.jobs) as pool:
        try:
            while running or (waiting and not failed_states):
                for step in [] if failed_states else _runnable(waiting, running.values())[: location.jobs - len(running)]:
                    del waiting[step.address]
                    upstream_states = [states[dependency] for dependency in step.dependencies if dependency in states]
                    running[pool.submit(contextvars.copy_context().run, _run_stage, step, upstream_states, location, processes)] = (
                        step
                    )
                if not running:
                    raise RuntimeError(f"each of these waits for another of them: {', '.join(waiting)}")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    step, (state, seconds) = running.pop(future), future.result()
                    states[step.address] = state
                    if state.is_completed():
                        results[step.address] = StageResult(step.address, "cached" if state.name == "Cached" else "ran", seconds)
                    else:
                        failed_states.append(state)
        except BaseException:
            processes.terminate()
            raise
    for state in failed_states:
        state.result()  # raises what made it fail
    return [results[step.address] for step in steps]


def _runnable(
    waiting: Mapping[str, dvc_runner.PlannedStage], running: Iterable[dvc_runner.PlannedStage]
) -> list[dvc_runner.PlannedStage]:
    """Those that read from nothing that is still to come, in DVC's order."""
    unfinished = waiting.keys() | {step.address for step in running}
    return [step for step in waiting.values() if unfinished.isdisjoint(step.dependencies)]


def _run_stage(
    step: dvc_runner.PlannedStage, upstream_states: list[State[Any]], location: RunLocation, processes: process_groups.ProcessSet
) -> tuple[State[Any], float]:
    started = time.monotonic()
    unchanged = not step.changed and not step.force and all(state.message == UNCHANGED_MESSAGE for state in upstream_states)
    state = stage_task.with_options(name=step.stage_name)(
        step, unchanged, location, processes, return_state=True, wait_for=upstream_states
    )
    return state, time.monotonic() - started


@task(name="stage", task_run_name="{step.stage}", cache_policy=NO_CACHE)  # what is cached is for DVC alone to say
def stage_task(
    step: dvc_runner.PlannedStage, unchanged: bool, location: RunLocation, processes: process_groups.ProcessSet
) -> State[None]:
    """Reproduce one stage. `fresh`: nothing it rests on changed, so DVC need not even be started."""
    log = get_run_logger()
    if unchanged:
        log.info("cached")
        return Completed(name="Cached", message=UNCHANGED_MESSAGE)
    log.info("started")
    started = time.monotonic()
    try:
        with progress.progress_listener(step.address, artifact_key(f"progress-{step.address}"), log.info) as listen:
            status = dvc_runner.reproduce(step, location.root, listen, processes, location.train_locks)
        if status == "ran":
            _publish_metrics(step, ProjectPaths(location.root))
    except dvc_runner.StageCancelledError as error:
        return Cancelled(message=str(error), data=error)
    except (ProvenlmError, dvc_runner.StageError) as error:
        return Failed(message=str(error), data=error)  # no stack trace: it is told in one line
    if status != "ran":
        log.info(status)
        return Completed(name="Cached", message=UNCHANGED_MESSAGE if status == "cached" else "DVC: made before, and kept")
    summary = f"done in {time.monotonic() - started:.1f} s"
    log.info(summary)
    return Completed(message=summary)


def _publish_metrics(step: dvc_runner.PlannedStage, layout: ProjectPaths) -> None:
    audit = audits.read_audit(layout.audit_json(step.subject, step.stage_name))
    rows = [
        {
            "figure": name,
            "value": _round_value(metric.value),
            "unit": metric.unit,
            "kind": metric.kind,
            "meaning": metric.description,
        }
        for name, metric in audit.metrics.items()
    ]
    create_table_artifact(table=rows, key=artifact_key(step.address), description=f"figures of {step.address}")


def _round_value(value: audits.MetricValue) -> audits.MetricValue:
    """Six digits, which fit into a column; the audit has all of them."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def artifact_key(name: str) -> str:
    """Prefect's artifact keys know lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def to_prefect_markdown(markdown: str, folder: Path) -> str:
    """`markdown` with its SVG pictures, named relative to `folder`, inside, and its links into files as plain words.

    An artifact has no files beside it. Prefect's pages never break a line in a table and cut off what is too wide, so long cells are
    broken here, and what a figure means stands below its name.
    """

    def embed_svg(match: re.Match[str]) -> str:
        return f"](data:image/svg+xml;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()})"

    embedded = re.sub(r"\]\(([^():]+\.svg)\)", embed_svg, markdown)
    text = re.sub(r'(?<!!)\[([^\[\]]*)\]\((?!https?:)[^()"]*("[^"]*")?\)', r"\1", embedded)
    lines = groupby(text.split("\n"), lambda line: line.startswith("| "))
    return "\n".join(line for rows, block in lines for line in (_wrap_table(list(block)) if rows else block))


def _wrap_table(rows: list[str]) -> Iterator[str]:
    """The rows of a table: head, rule and body."""
    cells = [row.removeprefix("| ").removesuffix(" |").split(" | ") for row in rows]
    metric_column = cells[0].index(METRIC_HEADER) if cells[0][-1] == DESCRIPTION_HEADER and METRIC_HEADER in cells[0] else None
    descriptions = [row.pop() for row in cells] if metric_column is not None else []
    wrapped = [
        [_wrap_cell(cell, DESCRIPTION_WIDTH if column == metric_column else CELL_WIDTH) for column, cell in enumerate(row)]
        for row in cells
    ]
    for row, description in zip(wrapped[2:], descriptions[2:], strict=bool(descriptions)):
        row[metric_column or 0] += f"<br>{_wrap_cell(description, DESCRIPTION_WIDTH)}" if description else ""
    return (f"| {' | '.join(row)} |" for row in wrapped)


def _wrap_cell(cell: str, width: int) -> str:
    """In lines, broken between words and never within code."""
    protected = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\u00a0"), cell)
    return "<br>".join(textwrap.wrap(protected, width, break_long_words=False, break_on_hyphens=False))
