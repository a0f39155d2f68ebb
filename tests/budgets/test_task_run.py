"""Test a run of tasks: faults cost one task, the time is shared, and a killed run resumes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from task_functions import misbehave

from provenlm.core.errors import DataError
from provenlm.domains.grids.evaluate.budgets.deadline import SharedDeadline
from provenlm.domains.grids.evaluate.budgets.journal import Journal, read_rows, to_line
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.outcome import TaskRow
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget, TaskRun, describe_row, summarize

BUDGET = RunBudget(task=TaskLimits(wall_seconds=5.0, memory_bytes=400 * 10**6))
TASKS = {"a": ("ok", 1), "b": "hang", "c": ("allocate", 600), "d": ("climb", 150), "e": "fail", "f": "kill", "g": ("ok", 2)}
STATUSES = {"a": "ok", "b": "timeout", "c": "oom", "d": "recovered", "e": "error", "f": "killed", "g": "ok"}
ROW = TaskRow("a", "key", "ok")
SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from task_functions import misbehave
from provenlm.domains.grids.evaluate.budgets import worker
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget, TaskRun

def write_results(rows):
    if len(rows) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    worker.PRELOADED_MODULES = ()
    run = TaskRun(misbehave, RunBudget(), Path(sys.argv[2]), "key", write_results)
    run.run({"a": ("ok", 1), "b": "fail", "c": ("ok", 3)})
"""


class Results:
    """Keep what a run writes each time."""

    def __init__(self) -> None:
        self.writes: list[dict[str, str]] = []

    def __call__(self, rows) -> None:
        self.writes.append({task_id: row.status for task_id, row in rows.items()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run one task of each kind, two at a time."""
    path, results = tmp_path_factory.mktemp("run") / "tasks.jsonl", Results()
    solutions = {"a": [[1]], "g": [[0]]}
    run = TaskRun(
        misbehave, replace(BUDGET, num_workers=2), path, "key", results, lambda name, answer: solutions.get(name) == answer
    )
    rows = run.run(TASKS)
    return path, results, rows


def test_every_task_has_a_row_with_its_status(finished):
    path, _, rows = finished
    assert {task_id: row.status for task_id, row in rows.items()} == STATUSES and list(rows) == list(TASKS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["id"]: line["status"] for line in lines} == STATUSES and len(lines) == 7


def test_a_row_holds_what_the_task_did_and_used(finished):
    row = finished[2]["a"]
    assert (row.answer, row.num_trainable_params, row.num_steps, row.first_loss, row.last_loss) == ([[1]], 12, 3, 2.5, 1.5)
    assert (row.num_views, row.votes, row.correct, finished[2]["g"].correct, finished[2]["e"].correct) == (
        8,
        (5, 2),
        True,
        False,
        None,
    )
    assert row.wall_seconds > 0 and row.peak_bytes > 10**6 and row.run_key == "key"
    assert finished[2]["b"].answer == "early" and finished[2]["d"].rungs == ("out of memory: 2 micro-batches of 2",)


def test_results_are_written_before_the_first_task_and_after_each(finished):
    writes = finished[1].writes
    assert [len(write) for write in writes] == [0, 1, 2, 3, 4, 5, 6, 7, 7] and writes[-1] == STATUSES


def test_a_second_run_does_no_task_again(finished):
    path, _, rows = finished
    before, results = path.read_bytes(), Results()
    assert TaskRun(misbehave, BUDGET, path, "key", results).run(TASKS) == rows
    assert path.read_bytes() == before and results.writes == [STATUSES, STATUSES]


def test_the_journal_of_other_settings_is_refused(finished):
    with pytest.raises(DataError, match="must hold rows of run other, got key"):
        TaskRun(misbehave, BUDGET, finished[0], "other", Results())


def test_a_run_that_was_killed_resumes(tmp_path):
    """SIGKILL arrives after two rows; the third task alone is run then."""
    script, path = tmp_path / "run.py", tmp_path / "tasks.jsonl"
    script.write_text(SCRIPT)
    killed = subprocess.run([sys.executable, script, Path(__file__).parent, path], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    first = path.read_text()
    path.write_text(first + '{"id":"c","run_')  # as a kill while writing leaves it
    rows = TaskRun(misbehave, BUDGET, path, "key", Results()).run({"a": ("ok", 1), "b": "fail", "c": ("ok", 3)})
    assert {task_id: row.status for task_id, row in rows.items()} == {"a": "ok", "b": "error", "c": "ok"}
    assert path.read_text().startswith(first) and path.read_text().count("\n") == 3


def test_tasks_that_the_time_does_not_reach_are_named_and_run_later(tmp_path):
    path, tasks = tmp_path / "tasks.jsonl", {"a": ("ok", 1), "b": ("ok", 2)}
    short = replace(BUDGET, wall_seconds=10.0, reserve_seconds=9.5, min_task_seconds=5.0)
    rows = TaskRun(misbehave, short, path, "key", Results()).run(tasks)
    assert [(row.status, row.is_started) for row in rows.values()] == [("timeout", False)] * 2
    assert "min_task_seconds is 5.0" in rows["a"].reason
    rows = TaskRun(misbehave, BUDGET, path, "key", Results()).run(tasks)
    assert [(row.status, row.is_started) for row in rows.values()] == [("ok", True)] * 2
    assert len(path.read_text().splitlines()) == 2


def test_the_time_of_finished_rows_counts_on_resuming(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(to_line(replace(ROW, wall_seconds=7200.0)))
    rows = TaskRun(misbehave, BUDGET, path, "key", Results()).run({"a": ("ok", 1), "b": ("ok", 2)})
    assert (rows["b"].status, rows["b"].is_started) == ("timeout", False)


def test_a_failure_to_write_results_ends_the_run(tmp_path):
    def write_results(rows) -> None:
        if rows:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        TaskRun(misbehave, BUDGET, tmp_path / "tasks.jsonl", "key", write_results).run({"a": ("ok", 1), "b": ("ok", 2)})
    assert [row.id for row in read_rows(tmp_path / "tasks.jsonl")[0]] == ["a"]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b'{"id":"a","run_key":"key","status":"ok","other":1}', b"\xff", b"[" * 100_000])
def test_a_damaged_journal_is_refused(tmp_path, line):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(to_line(ROW).encode() + line + b"\n")
    with pytest.raises(DataError, match=r"tasks.jsonl:2: must be the row of a task"):
        Journal(path, "key")


def test_unused_time_is_there_for_the_next_tasks():
    now = [0.0]
    deadline = SharedDeadline(110, 10, lambda: now[0])
    assert deadline.share(4) == 25
    now[0] = 4.0
    assert deadline.share(3) == 32
    now[0] = 36.0
    assert deadline.share(2) == 32
    assert deadline.share(4, num_workers=2) == 32 and deadline.share(1, num_workers=2) == 64
    now[0] = 105.0
    assert deadline.share(1) == 0.0


def test_a_row_and_a_run_are_shown_in_words():
    row = replace(ROW, wall_seconds=1.26, peak_bytes=2**21, num_steps=4, first_loss=2.0, last_loss=0.5, correct=True)
    assert describe_row(row) == "task a: ok, 1.3 s, peak 2 MiB, 4 steps, loss 2.000 to 0.500, correct"
    late = replace(ROW, status="timeout", reason="late", correct=False, rungs=("rank 4",), unenforced_limits=("memory_bytes",))
    assert describe_row(late) == "task a: timeout, 0.0 s, peak 0 MiB, wrong, rank 4, late, memory_bytes is not enforced here"
    assert summarize([row, row, late]) == "3 tasks: 2 ok, 1 timeout"


@pytest.mark.parametrize(
    ("field", "value"), [("wall_seconds", 0), ("reserve_seconds", 7200), ("min_task_seconds", 0), ("num_workers", 0)]
)
def test_a_wrong_budget_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: must be"):
        RunBudget(**{field: value})


def test_the_default_budget_is_two_hours_and_ten_gigabytes():
    assert (RunBudget().wall_seconds, RunBudget().task.memory_bytes) == (7200, 10**10)
