"""One DVC stage as one Prefect task, and the flow that runs those of a plan in DVC's order: what the UI shows and the terminal prints."""

import base64
import contextvars
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flows import environment  # noqa: F401  before Prefect, which reads its settings at import

# isort: split
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from tqdm import tqdm

from flows import pipeline
from provenlm.core import audit as audits
from provenlm.core.errors import UserError
from provenlm.core.layout import Layout
from provenlm.core.progress import MARK

LINE_SECONDS = 10.0
ARTIFACT_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """How one stage of a flow ended."""

    stage: str
    how: pipeline.How
    seconds: float


@flow(name="build", flow_run_name=lambda: ", ".join(flow_run.parameters["reports"]))
def build(reports: list[str]) -> State[list[Outcome]]:
    """From the world to the verdict: every stage that the reports rest on, those that changed and no others.

    Args:
        reports: names below `reports` in params.yaml
    """
    root = Path.cwd()
    try:
        outcomes = run(pipeline.plan([f"report@{name}" for name in reports], root))
    except (UserError, pipeline.StageError) as error:
        return Failed(message=str(error), data=error)  # no stack trace: it is told in one line
    for name in reports:
        page = Layout(root).report(name, "md")
        create_markdown_artifact(with_pictures(page.read_text(encoding="utf-8"), page.parent), _key(f"report-{name}"))
    ran = sum(outcome.how == "ran" for outcome in outcomes)
    return Completed(message=f"{ran} ran, {len(outcomes) - ran} cached", data=outcomes)


def run(steps: Iterable[pipeline.Step]) -> list[Outcome]:
    """Run `steps` one after another, each as a task that waits for those it reads from. StageError at the first that fails."""
    states: dict[str, State[Any]] = {}
    outcomes = []
    for step in steps:
        fresh = not step.changed and all(states[need].name == "Cached" for need in step.needs)
        started = time.monotonic()
        state = stage.with_options(name=step.kind)(step, fresh, return_state=True, wait_for=[states[need] for need in step.needs])
        state.result()  # raises what made it fail
        states[step.stage] = state
        outcomes.append(Outcome(step.stage, "cached" if state.name == "Cached" else "ran", time.monotonic() - started))
    return outcomes


@task(name="stage", task_run_name="{step.stage}", cache_policy=NO_CACHE)  # what is cached is for DVC alone to say
def stage(step: pipeline.Step, fresh: bool) -> State[None]:
    """Reproduce one stage. `fresh`: nothing it rests on changed, so DVC need not even be started."""
    log = get_run_logger()
    if fresh:
        log.info("cached")
        return Completed(name="Cached", message="DVC: unchanged")
    log.info("started")
    started, root = time.monotonic(), Path.cwd()
    try:
        with _listening(step.stage, log.info) as listen:
            how = pipeline.repro(step, root, listen)
        if how == "ran":
            _publish_figures(step, Layout(root))
    except (UserError, pipeline.StageError) as error:
        return Failed(message=str(error), data=error)
    if how == "cached":
        log.info("cached")
        return Completed(name="Cached", message="DVC: unchanged, or made before and kept")
    done = f"done in {time.monotonic() - started:.1f} s"
    log.info(done)
    return Completed(message=done)


def _publish_figures(step: pipeline.Step, layout: Layout) -> None:
    audit = audits.read(layout.audit(step.subject, step.kind))
    rows = [
        {"figure": name, "value": figure.value, "unit": figure.unit, "kind": figure.kind, "meaning": figure.meaning}
        for name, figure in audit.figures.items()
    ]
    create_table_artifact(table=rows, key=_key(step.stage), description=f"figures of {step.stage}")


def _key(name: str) -> str:
    """Prefect's artifact keys know lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def with_pictures(markdown: str, folder: Path) -> str:
    """`markdown` with its SVG pictures, named relative to `folder`, inside: an artifact has no files beside it."""

    def picture(found: re.Match[str]) -> str:
        return f"](data:image/svg+xml;base64,{base64.b64encode((folder / found[1]).read_bytes()).decode()})"

    return re.sub(r"\]\(([^():]+\.svg)\)", picture, markdown)


@contextmanager
def _listening(stage: str, say: Callable[[str], None]) -> Iterator[pipeline.Listener]:
    """A listener to a stage's lines: progress becomes a bar or a line now and then, and an artifact; the rest is said as it is."""
    meter = Meter(say, sys.stderr.isatty())
    artifact = ProgressArtifact(_key(f"progress-{stage}"), stage)

    def listen(line: str) -> None:
        if not line.startswith(MARK):
            say(line)
            return
        with suppress(ValueError, KeyError):  # a line cut short by a dying stage
            fields = json.loads(line.removeprefix(MARK))
            meter.show(fields)
            if fields["total"]:
                artifact.percent = 100.0 * fields["done"] / fields["total"]

    try:
        yield listen
    finally:
        meter.close()
        artifact.close()


class Meter:
    """Progress of a stage for a person: one bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, say: Callable[[str], None], terminal: bool) -> None:
        self._say, self._terminal = say, terminal
        self._bar: tqdm[Any] | None = None
        self._label, self._said = "", time.monotonic()

    def show(self, fields: Mapping[str, Any]) -> None:
        """`fields` of a progress line: label, done, total (or null), unit, note."""
        if fields["label"] != self._label:
            self.close()
            self._label = fields["label"]
        if self._terminal:
            self._draw(fields)
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            share = f" of {fields['total']}" if fields["total"] else ""
            self._say(f"{fields['label']}: {fields['done']}{share} {fields['unit']} {fields['note']}".rstrip())

    def _draw(self, fields: Mapping[str, Any]) -> None:
        done, total = fields["done"], fields["total"]
        if (bar := self._bar) is None:
            unit = f" {fields['unit']}"
            self._bar = bar = tqdm(desc=fields["label"], total=total, unit=unit, leave=False, dynamic_ncols=True, initial=done)
        bar.n, bar.total = done, total
        bar.set_postfix_str(fields["note"])

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ProgressArtifact:
    """Tells Prefect of `percent` at most once a second, from a thread of its own: a slow API must not delay a line or a signal."""

    def __init__(self, key: str, description: str) -> None:
        self.percent: float | None = None
        self._key, self._description = key, description
        self._ended = threading.Event()
        context = contextvars.copy_context()  # so that the artifact belongs to this task run
        self._thread = threading.Thread(target=context.run, args=(self._tell,), daemon=True)
        self._thread.start()

    def _tell(self) -> None:
        artifact: UUID | None = None
        told = None
        while not self._ended.wait(ARTIFACT_SECONDS):
            if (percent := self.percent) is None or percent == told:
                continue
            try:
                if artifact is None:
                    artifact = cast(UUID, create_progress_artifact(percent, self._key, self._description))
                else:
                    update_progress_artifact(artifact, percent)
            except Exception as error:  # nobody should lose a training to the picture of a bar
                logging.getLogger(__name__).warning("progress is no longer shown in Prefect: %s", error)
                return
            told = percent

    def close(self) -> None:
        self._ended.set()
        self._thread.join(2 * ARTIFACT_SECONDS)
