"""Record one line of JSON for each finished task, so that a killed run can resume."""

import json
import os
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from provenlm.core import io
from provenlm.core.errors import DataError
from provenlm.core.progress import log_line
from provenlm.domains.grids.evaluate.budgets.outcome import TaskRow

FIELDS = {field.name for field in fields(TaskRow)}
TUPLES = ("votes", "rungs", "unenforced_limits")


class Journal:
    """Append rows to a file of JSON lines; a row is on the disk when `append` returns."""

    def __init__(self, path: Path, run_key: str) -> None:
        """Open a journal and read the rows of an earlier run.

        A line that a kill cut off, and rows of tasks that were not started, are removed. Raises DataError if the file is damaged elsewhere
        or belongs to a run with other settings.
        """
        self.path, self._lock = path, threading.Lock()
        rows, num_lines = read_rows(path)
        foreign = next((row for row in rows if row.run_key != run_key), None)
        if foreign is not None:
            raise DataError(
                f"{path.as_posix()}: must hold rows of run {run_key[:12]}, got {foreign.run_key[:12]} in that of task {foreign.id}; "
                "move it away to begin again"
            )
        self.rows = {row.id: row for row in rows if row.is_started}
        if num_lines != len(self.rows):
            io.write_text(path, "".join(map(to_line, self.rows.values())))

    def append(self, row: TaskRow) -> None:
        """Write a row and wait until the disk has it."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_line(row))
                file.flush()
                os.fsync(file.fileno())
            self.rows[row.id] = row


def to_line(row: TaskRow) -> str:
    """Return a row as a line of JSON."""
    return json.dumps(asdict(row), separators=(",", ":"), ensure_ascii=False) + "\n"


def read_rows(path: Path) -> tuple[list[TaskRow], int]:
    """Read the rows of a journal.

    Also returns its number of lines, with one that is cut off at the end. Raises DataError for any other damaged line.
    """
    if not path.exists():
        return [], 0
    lines = path.read_bytes().split(b"\n")
    ends = lines.pop()  # empty, unless a kill cut the last line off
    rows = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
    if ends:
        log_line(f"{path.as_posix()}: removed the last line, which a kill cut off")
    return rows, len(rows) + bool(ends)


def _parse(path: Path, number: int, line: bytes) -> TaskRow:
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or not {"id", "run_key", "status"} <= values.keys() <= FIELDS:
            raise ValueError("not the fields of a task")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.as_posix()}:{number}: must be the row of a task, got {line[:40]!r} ({error})") from None
    arguments: dict[str, Any] = {name: tuple(value) if name in TUPLES else value for name, value in values.items()}
    return TaskRow(**arguments)
