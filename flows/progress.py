"""Lines of a stage in; its progress as a bar or as a line now and then, and as a Prefect artifact, out."""

import contextvars
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast
from uuid import UUID

from flows import server  # noqa: F401  before Prefect, which reads its settings at import

# isort: split
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from tqdm import tqdm

from flows import dvc_runner
from provenlm.core.progress import MARK

LINE_SECONDS = 10.0
ARTIFACT_SECONDS = 1.0


@contextmanager
def listening(stage: str, key: str, say: Callable[[str], None]) -> Iterator[dvc_runner.Listener]:
    """A listener to a stage's lines: progress becomes a bar or a line now and then, and an artifact; the rest is said as it is."""
    meter = Meter(say, sys.stderr.isatty())
    artifact = ProgressArtifact(key, stage)

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
