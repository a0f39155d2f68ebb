"""Run each DVC stage of a plan as a Prefect task, in dependency order."""

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

from flows import server  # noqa: F401  imported before Prefect, which reads its settings at import

# isort: split
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Cancelled, Completed, Failed

from flows import dvc_runner, process_groups, progress
from provenlm.core.audit import MetricValue, read_audit
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths

UNCHANGED_MESSAGE = "DVC: unchanged"
CELL_WIDTH, DESCRIPTION_WIDTH = 26, 52  # characters a line: in a table cell, and below the name of a metric
METRIC_HEADER, DESCRIPTION_HEADER = "Metric", "Description"  # column headers of a report page


@dataclass(frozen=True)
class StageResult:
    """Hold how one stage of a flow ended."""

    address: str
    status: dvc_runner.StageStatus
    seconds: float


@dataclass(frozen=True)
class RunLocation:
    """Describe where stages run: checkout, parallelism and training locks.

    A train stage takes one of the locks.
    """

    root: Path
    jobs: int
    train_locks: Sequence[Path]


def run_stages(stages: Sequence[dvc_runner.PlannedStage], location: RunLocation) -> list[StageResult]:
    """Run stages as tasks after their dependencies, `location.jobs` in parallel.

    After a failure no stage is started, running stages finish, and the StageError of the first failure is raised. An exception in this
    thread (interrupt, cancellation) stops all stages; it is raised again when they have had time to save a checkpoint.
    """
    waiting = {stage.address: stage for stage in stages}
    states: dict[str, State[Any]] = {}
    running: dict[Future[tuple[State[Any], float]], dvc_runner.PlannedStage] = {}
    results: dict[str, StageResult] = {}
    failed_states: list[State[Any]] = []
    processes = process_groups.ProcessSet()
    with ThreadPoolExecutor(location.jobs) as pool:
        try:
            while running or (waiting and not failed_states):
                for stage in [] if failed_states else _runnable(waiting, running.values())[: location.jobs - len(running)]:
                    del waiting[stage.address]
                    upstream_states = [states[dependency] for dependency in stage.dependencies if dependency in states]
                    running[
                        pool.submit(contextvars.copy_context().run, _run_stage, stage, upstream_states, location, processes)
                    ] = stage
                if not running:
                    raise RuntimeError(f"circular dependencies: {', '.join(waiting)}")
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    stage, (state, seconds) = running.pop(future), future.result()
                    states[stage.address] = state
                    if state.is_completed():
                        results[stage.address] = StageResult(stage.address, "cached" if state.name == "Cached" else "ran", seconds)
                    else:
                        failed_states.append(state)
        except BaseException:
            processes.terminate()
            raise
    for state in failed_states:
        state.result()  # raises the error of the stage
    return [results[stage.address] for stage in stages]


def _runnable(
    waiting: Mapping[str, dvc_runner.PlannedStage], running: Iterable[dvc_runner.PlannedStage]
) -> list[dvc_runner.PlannedStage]:
    """Return the waiting stages whose dependencies are finished, in DVC's order."""
    unfinished = waiting.keys() | {stage.address for stage in running}
    return [stage for stage in waiting.values() if unfinished.isdisjoint(stage.dependencies)]


def _run_stage(
    stage: dvc_runner.PlannedStage, upstream_states: list[State[Any]], location: RunLocation, processes: process_groups.ProcessSet
) -> tuple[State[Any], float]:
    started = time.monotonic()
    unchanged = not stage.changed and not stage.force and all(state.message == UNCHANGED_MESSAGE for state in upstream_states)
    state = stage_task.with_options(name=stage.name)(
        stage, unchanged, location, processes, return_state=True, wait_for=upstream_states
    )
    return state, time.monotonic() - started


@task(name="stage", task_run_name="{stage.address}", cache_policy=NO_CACHE)  # only DVC decides what is cached
def stage_task(
    stage: dvc_runner.PlannedStage, unchanged: bool, location: RunLocation, processes: process_groups.ProcessSet
) -> State[None]:
    """Reproduce one stage.

    If it is `unchanged`, with all its dependencies, DVC is not started.
    """
    log = get_run_logger()
    if unchanged:
        log.info("cached")
        return Completed(name="Cached", message=UNCHANGED_MESSAGE)
    log.info("started")
    started = time.monotonic()
    try:
        with progress.progress_listener(stage.address, artifact_key(f"progress-{stage.address}"), log.info) as listen:
            status = dvc_runner.reproduce(stage, location.root, listen, processes, location.train_locks)
        if status == "ran":
            _publish_metrics(stage, ProjectPaths(location.root))
    except dvc_runner.StageCancelledError as error:
        return Cancelled(message=str(error), data=error)
    except ProvenlmError as error:
        return Failed(message=str(error), data=error)  # no stack trace: the message is one line
    if status != "ran":
        log.info(status)
        return Completed(name="Cached", message=UNCHANGED_MESSAGE if status == "cached" else "DVC: restored from the cache")
    summary = f"done in {time.monotonic() - started:.1f} s"
    log.info(summary)
    return Completed(message=summary)


def _publish_metrics(stage: dvc_runner.PlannedStage, paths: ProjectPaths) -> None:
    audit = read_audit(paths.audit_json(stage.subject, stage.name))
    rows = [
        {
            "metric": name,
            "value": _round_value(metric.value),
            "unit": metric.unit,
            "kind": metric.kind,
            "description": metric.description,
        }
        for name, metric in audit.metrics.items()
    ]
    create_table_artifact(table=rows, key=artifact_key(stage.address), description=f"metrics of {stage.address}")


def _round_value(value: MetricValue) -> MetricValue:
    """Round to six significant digits, to fit into a column; the audit has all digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def artifact_key(name: str) -> str:
    """Convert a name to a Prefect artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def to_prefect_markdown(markdown: str, folder: Path) -> str:
    """Embed the SVG images of a page and turn its links to files into plain text.

    Image paths are relative to `folder`.

    An artifact cannot refer to files. The Prefect UI does not wrap table cells and cuts off wide tables, so long cells are wrapped
    here and the description of a metric is put below its name.
    """

    def embed_svg(match: re.Match[str]) -> str:
        return f"](data:image/svg+xml;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()})"

    embedded = re.sub(r"\]\(([^():]+\.svg)\)", embed_svg, markdown)
    text = re.sub(r'(?<!!)\[([^\[\]]*)\]\((?!https?:)[^()"]*("[^"]*")?\)', r"\1", embedded)
    lines = groupby(text.split("\n"), lambda line: line.startswith("| "))
    return "\n".join(line for rows, block in lines for line in (_wrap_table(list(block)) if rows else block))


def _wrap_table(rows: list[str]) -> Iterator[str]:
    """Wrap the rows of a table: header, separator and body."""
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
    """Wrap a cell between words, never inside code."""
    protected = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\u00a0"), cell)
    return "<br>".join(textwrap.wrap(protected, width, break_long_words=False, break_on_hyphens=False))
