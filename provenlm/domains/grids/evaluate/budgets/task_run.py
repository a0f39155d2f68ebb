"""Run all tasks within the budget of the run, whatever happens to single ones."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from provenlm.core.progress import ProgressReporter, log_line, progress_bar
from provenlm.domains.grids.evaluate.budgets.deadline import SharedDeadline
from provenlm.domains.grids.evaluate.budgets.journal import Journal
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.outcome import TaskRow
from provenlm.domains.grids.evaluate.budgets.worker import TaskFunction, run_in_worker, worker_context

HOUR = 3600.0
Rows = Mapping[str, TaskRow]


@dataclass(frozen=True)
class RunBudget:
    """Configure the time and memory of a run and of each task.

    A task gets its share of the time that is left, but no more than `task.wall_seconds`, and is not started with less than
    `min_task_seconds`.
    """

    wall_seconds: float = 2 * HOUR
    reserve_seconds: float = 10.0  # for writing results at the end
    min_task_seconds: float = 1.0
    num_workers: int = 1
    task: TaskLimits = field(default_factory=TaskLimits)

    def __post_init__(self) -> None:
        for name in ("wall_seconds", "min_task_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")
        if not 0 <= self.reserve_seconds < self.wall_seconds:
            raise ValueError(f"reserve_seconds: must be >= 0 and < wall_seconds = {self.wall_seconds}, got {self.reserve_seconds}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers: must be >= 1, got {self.num_workers}")


class TaskRun:
    """Give tasks to workers and record a row for each.

    `write_results(rows)` is called before the first task, after each one and at the end, so that its file is complete at any time.
    `is_correct(task_id, answer)` is asked here, not in the workers, which need no solution; None: nobody knows.
    """

    def __init__(
        self,
        function: TaskFunction,
        budget: RunBudget,
        journal_path: Path,
        run_key: str,
        write_results: Callable[[Rows], None],
        is_correct: Callable[[str, Any], bool | None] = lambda task_id, answer: None,
        preloaded_modules: Sequence[str] = (),
    ) -> None:
        self.function, self.budget, self.run_key, self.write_results = function, budget, run_key, write_results
        self.is_correct = is_correct
        self.journal = Journal(journal_path, run_key)
        self._lock, self._context = threading.Lock(), worker_context(preloaded_modules)
        self._failures: list[BaseException] = []

    def run(self, tasks: Mapping[str, Any]) -> dict[str, TaskRow]:
        """Run the tasks that the journal lacks and return the rows of all.

        The time of rows in the journal counts as used. An exception of `write_results` ends the run after the tasks that run.
        """
        finished = {task_id: row for task_id, row in self.journal.rows.items() if task_id in tasks}
        used = sum(row.wall_seconds for row in finished.values()) / self.budget.num_workers
        deadline = SharedDeadline(self.budget.wall_seconds - used, self.budget.reserve_seconds)
        queue = deque(task_id for task_id in tasks if task_id not in finished)
        if finished:
            log_line(f"{self.journal.path.as_posix()}: {len(finished)} of {len(tasks)} tasks are finished already")
        self.write_results(dict(finished))
        with progress_bar("tasks", "tasks", len(tasks)) as progress:
            progress.update(len(finished))
            threads = [
                threading.Thread(target=self._run_queue, args=(tasks, queue, deadline, progress), daemon=True)
                for _ in range(min(self.budget.num_workers, len(queue)))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures[0]
        rows = {task_id: self.journal.rows[task_id] for task_id in tasks}
        self.write_results(rows)
        log_line(summarize(list(rows.values())))
        return rows

    def _run_queue(self, tasks: Mapping[str, Any], queue: deque[str], deadline: SharedDeadline, progress: ProgressReporter) -> None:
        """Run tasks until there is none, in one thread for each worker."""
        try:
            while not self._failures:
                with self._lock:
                    if not queue:
                        return
                    seconds = min(self.budget.task.wall_seconds, deadline.share(len(queue), self.budget.num_workers))
                    task_id = queue.popleft()
                row = self._run_task(task_id, tasks[task_id], seconds)
                with self._lock:
                    self.journal.append(row)
                    self.write_results({name: row for name, row in self.journal.rows.items() if name in tasks})
                    log_line(describe_row(row))
                    progress.update(1, f"{task_id} {row.status}")
        except BaseException as error:
            self._failures.append(error)

    def _run_task(self, task_id: str, task: Any, seconds: float) -> TaskRow:
        if seconds < self.budget.min_task_seconds:
            reason = f"the run had {seconds:.1f} s left for it, min_task_seconds is {self.budget.min_task_seconds:.1f}"
            return TaskRow(task_id, self.run_key, "timeout", reason, is_started=False)
        result = run_in_worker(self.function, task, replace(self.budget.task, wall_seconds=seconds), self._context)
        outcome = {} if result.outcome is None else asdict(result.outcome)
        outcome["correct"] = None if result.outcome is None else self.is_correct(task_id, result.outcome.answer)
        return TaskRow(
            id=task_id,
            run_key=self.run_key,
            status=result.status,
            reason=result.reason,
            wall_seconds=round(result.wall_seconds, 3),
            cpu_seconds=round(result.cpu_seconds, 3),
            peak_bytes=result.peak_bytes,
            peak_device_bytes=result.peak_device_bytes,
            rungs=tuple(result.rungs),
            unenforced_limits=tuple(result.unenforced_limits),
            **outcome,
        )


def describe_row(row: TaskRow) -> str:
    """Return a row as a line for a reader."""
    parts = [f"task {row.id}: {row.status}", f"{row.wall_seconds:.1f} s", f"peak {row.peak_bytes / 2**20:.0f} MiB"]
    parts += (
        [f"{row.num_steps} steps, loss {row.first_loss:.3f} to {row.last_loss:.3f}"] if row.first_loss and row.last_loss else []
    )
    parts += [{True: "correct", False: "wrong"}[row.correct]] if row.correct is not None else []
    parts += [
        *row.rungs,
        *([row.reason] if row.reason else []),
        *(f"{name} is not enforced here" for name in row.unenforced_limits),
    ]
    return ", ".join(parts)


def summarize(rows: Sequence[TaskRow]) -> str:
    """Return the numbers of tasks by status."""
    counts = Counter(row.status for row in rows)
    return f"{len(rows)} tasks: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())
