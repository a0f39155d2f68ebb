"""Progress of anything long: a bar on a terminal; else a line a second for the flow that reads us."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

MARK = "::progress "  # the flow turns such a line into a bar of its own and a Prefect artifact


class Progress:
    """Told how much is done; shows it. `total` may grow while the work is found."""

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self.label, self.unit, self.total, self.done = label, unit, total, 0
        self._last = 0.0
        self._bar = tqdm(total=total, unit=f" {unit}", desc=label, dynamic_ncols=True, leave=False) if sys.stderr.isatty() else None

    def advance(self, count: int = 1, note: str = "", total: int | None = None) -> None:
        """`count` more are done; `note` is shown beside the bar; `total` replaces the expected total."""
        self.done += count
        self.total = total if total is not None else self.total
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif (now := time.monotonic()) - self._last >= 1.0 or self.done == self.total:
            self._last = now
            fields = {"label": self.label, "done": self.done, "total": self.total, "unit": self.unit, "note": note}
            say(MARK + json.dumps(fields))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(label: str, unit: str, total: int | None = None) -> Iterator[Progress]:
    bar = Progress(label, unit, total)
    try:
        yield bar
    finally:
        bar.close()


def say(line: str) -> None:
    """Print a line, and survive a reader that is gone: a killed flow must not keep its stage from saving."""
    try:
        if sys.stderr.isatty():
            tqdm.write(line)
        else:
            print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the process
