"""Progress of anything long: a bar on a terminal; else a line a second for the flow that reads us."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

PROGRESS_PREFIX = "::progress "  # the flow turns such a line into a bar of its own and a Prefect artifact


class ProgressReporter:
    """Told how much is done; shows it. `total` may grow while the work is found."""

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self.label, self.unit, self.total, self.num_done = label, unit, total, 0
        self._last = 0.0
        self._bar = tqdm(total=total, unit=f" {unit}", desc=label, dynamic_ncols=True, leave=False) if sys.stderr.isatty() else None

    def update(self, count: int = 1, postfix: str = "", total: int | None = None) -> None:
        """`count` more are done; `note` is shown beside the bar; `total` replaces the expected total."""
        self.num_done += count
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.set_postfix_str(postfix, refresh=False)
            self._bar.update(count)
        elif (now := time.monotonic()) - self._last >= 1.0 or self.num_done == self.total:
            self._last = now
            fields = {"label": self.label, "done": self.num_done, "total": self.total, "unit": self.unit, "note": postfix}
            log_line(PROGRESS_PREFIX + json.dumps(fields))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_bar(label: str, unit: str, total: int | None = None) -> Iterator[ProgressReporter]:
    bar = ProgressReporter(label, unit, total)
    try:
        yield bar
    finally:
        bar.close()


def log_line(line: str) -> None:
    """Print a line, and survive a reader that is gone: a killed flow must not keep its stage from saving."""
    try:
        if sys.stderr.isatty():
            tqdm.write(line)
        else:
            print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the process
