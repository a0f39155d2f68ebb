"""Report the progress of long work.

On a terminal this is a bar, otherwise at most one machine-readable line a second.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

PROGRESS_PREFIX = "::progress "  # a flow turns these lines into its own progress bar and a Prefect artifact


class ProgressReporter:
    """Show how much work is done. `total` may grow while more work is discovered."""

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self.label, self.unit, self.total, self.num_done = label, unit, total, 0
        self._last = 0.0
        self._bar = tqdm(total=total, unit=f" {unit}", desc=label, dynamic_ncols=True, leave=False) if sys.stderr.isatty() else None

    def update(self, count: int = 1, postfix: str = "", total: int | None = None) -> None:
        """Add `count` finished items and show `postfix` beside the bar.

        `total`, if given, replaces the expected total.
        """
        self.num_done += count
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.set_postfix_str(postfix, refresh=False)
            self._bar.update(count)
        elif (now := time.monotonic()) - self._last >= 1.0 or self.num_done == self.total:
            self._last = now
            fields = {"label": self.label, "done": self.num_done, "total": self.total, "unit": self.unit, "postfix": postfix}
            print_line(PROGRESS_PREFIX + json.dumps(fields))

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_bar(label: str, unit: str, total: int | None = None) -> Iterator[ProgressReporter]:
    """Yield a progress reporter and close it at the end of the block."""
    bar = ProgressReporter(label, unit, total)
    try:
        yield bar
    finally:
        bar.close()


class ConsoleHandler(logging.Handler):
    """Print each log record as one line.

    The logger "provenlm" has one, which a library user may replace.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record."""
        print_line(record.getMessage())


LOGGER = logging.getLogger("provenlm")
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False
LOGGER.addHandler(ConsoleHandler())


def log_line(line: str) -> None:
    """Log a line at level INFO."""
    LOGGER.info("%s", line)


def print_line(line: str) -> None:
    """Print a line to standard output, or above the progress bar on a terminal.

    If the reader of the pipe has died, discard this and all later lines: a killed flow must not keep its stage from saving.
    """
    try:
        if sys.stderr.isatty():
            tqdm.write(line)
        else:
            print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
