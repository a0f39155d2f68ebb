"""Divide the time of a run among its tasks."""

import time
from collections.abc import Callable


class SharedDeadline:
    """Divide the seconds that are left among the tasks that are left.

    What a task does not use is there for the next ones. The last `reserve_seconds` are for writing results.
    """

    def __init__(self, seconds: float, reserve_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._ends_at = clock, clock() + seconds - reserve_seconds

    def seconds_left(self) -> float:
        """Return the seconds that tasks may still use."""
        return max(0.0, self._ends_at - self._clock())

    def share(self, num_tasks_left: int, num_workers: int = 1) -> float:
        """Return the seconds for the next task, while `num_workers` run at a time."""
        left = self.seconds_left()
        return left * min(1.0, num_workers / max(1, num_tasks_left))
