"""Relay the progress lines of a stage to the terminal and to a Prefect artifact."""

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

from flows import server  # noqa: F401  imported before Prefect, which reads its settings at import

# isort: split
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from tqdm import tqdm

from flows import dvc_runner
from provenlm.core.progress import PROGRESS_PREFIX

LINE_SECONDS = 10.0
ARTIFACT_SECONDS = 1.0


@contextmanager
def progress_listener(stage: str, key: str, write_line: Callable[[str], None]) -> Iterator[dvc_runner.LineListener]:
    """Return a listener that shows progress lines as a bar and writes the rest.

    An artifact of the run shows the same progress.
    """
    relay = ProgressRelay(write_line, sys.stderr.isatty())
    artifact = ProgressArtifact(key, stage)

    def listen(line: str) -> None:
        if not line.startswith(PROGRESS_PREFIX):
            write_line(line)
            return
        with suppress(ValueError, KeyError):  # a line that a killed stage left incomplete
            fields = json.loads(line.removeprefix(PROGRESS_PREFIX))
            relay.update(fields)
            if fields["total"]:
                artifact.percent = 100.0 * fields["done"] / fields["total"]

    try:
        yield listen
    finally:
        relay.close()
        artifact.close()


class ProgressRelay:
    """Show the progress of a stage as a bar or, without a terminal, as lines.

    A line appears every ten seconds.
    """

    def __init__(self, write_line: Callable[[str], None], is_terminal: bool) -> None:
        self._write_line, self._is_terminal = write_line, is_terminal
        self._bar: tqdm[Any] | None = None
        self._label, self._last_line_at = "", time.monotonic()

    def update(self, fields: Mapping[str, Any]) -> None:
        """Show the fields of a progress line: label, done, total (or null), unit, postfix."""
        if fields["label"] != self._label:
            self.close()
            self._label = fields["label"]
        if self._is_terminal:
            self._update_bar(fields)
        elif time.monotonic() - self._last_line_at >= LINE_SECONDS:
            self._last_line_at = time.monotonic()
            of_total = f" of {fields['total']}" if fields["total"] else ""
            self._write_line(f"{fields['label']}: {fields['done']}{of_total} {fields['unit']} {fields['postfix']}".rstrip())

    def _update_bar(self, fields: Mapping[str, Any]) -> None:
        completed, total = fields["done"], fields["total"]
        if (bar := self._bar) is None:
            unit = f" {fields['unit']}"
            self._bar = bar = tqdm(desc=fields["label"], total=total, unit=unit, leave=False, dynamic_ncols=True, initial=completed)
        bar.n, bar.total = completed, total
        bar.set_postfix_str(fields["postfix"])

    def close(self) -> None:
        """Finish the display."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ProgressArtifact:
    """Send `percent` to Prefect from a thread, at most once a second.

    In a thread, a slow API does not delay lines or signals.
    """

    def __init__(self, key: str, description: str) -> None:
        self.percent: float | None = None
        self._key, self._description = key, description
        self._closed = threading.Event()
        context = contextvars.copy_context()  # so that the artifact belongs to this task run
        self._thread = threading.Thread(target=context.run, args=(self._send_updates,), daemon=True)
        self._thread.start()

    def _send_updates(self) -> None:
        artifact_id: UUID | None = None
        sent_percent = None
        while not self._closed.wait(ARTIFACT_SECONDS):
            if (percent := self.percent) is None or percent == sent_percent:
                continue
            try:
                if artifact_id is None:
                    artifact_id = cast(UUID, create_progress_artifact(percent, self._key, self._description))
                else:
                    update_progress_artifact(artifact_id, percent)
            except Exception as error:  # a failing progress display must not stop a training
                logging.getLogger(__name__).warning("Prefect progress artifact disabled: %s", error)
                return
            sent_percent = percent

    def close(self) -> None:
        """Finish the display."""
        self._closed.set()
        self._thread.join(2 * ARTIFACT_SECONDS)
