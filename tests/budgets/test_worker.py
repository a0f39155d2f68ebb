"""Test workers: each planted fault of a task is survived and named, and each limit fires."""

import os
import time

import pytest
from task_functions import misbehave

from provenlm.domains.grids.evaluate.budgets import worker
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits, is_out_of_memory
from provenlm.domains.grids.evaluate.budgets.worker import WorkerResult, run_in_worker

LIMITS = TaskLimits(wall_seconds=60, memory_bytes=400 * 10**6)
SHORT = TaskLimits(wall_seconds=0.5, memory_bytes=None)


def run(*task: object, limits: TaskLimits = LIMITS) -> WorkerResult:
    return run_in_worker(misbehave, tuple(task) if len(task) > 1 else task[0], limits)


def test_a_task_returns_its_outcome_and_what_it_used():
    result = run("ok", 7)
    assert (result.status, result.reason, result.rungs) == ("ok", "", [])
    assert result.outcome is not None and result.outcome.answer == [[7]] and result.outcome.votes == (5, 2)
    assert result.wall_seconds > 0 and result.peak_bytes > 10**6 and result.unenforced_limits == []


def test_a_worker_finds_torch_loaded():
    """Importing it takes seconds of CPU time; the worker pays less than one."""
    result = run("tensor", 1)
    assert result.status == "ok" and result.cpu_seconds < 1


def test_a_hanging_task_is_stopped_and_its_answer_kept():
    """It ignores SIGTERM."""
    result = run("hang", limits=SHORT)
    assert (result.status, result.reason) == ("timeout", "wall time must be <= 0.5 s")
    assert result.outcome is not None and result.outcome.answer == "early"
    assert result.peak_bytes > 10**6


def test_a_task_beyond_its_cpu_time_is_stopped():
    result = run("spin", limits=TaskLimits(wall_seconds=60, cpu_seconds=0.5, memory_bytes=None))
    assert (result.status, result.reason) == ("timeout", "CPU time must be <= 0.5 s")
    assert 0.1 < result.cpu_seconds < 10 and result.wall_seconds < 50


@pytest.mark.parametrize("kind", ["allocate", "tensor"])
def test_a_task_beyond_its_memory_is_stopped(kind):
    too_much, enough = run(kind, 600), run(kind, 200)
    assert too_much.status == "oom" and "Error" in too_much.reason and "\n" not in too_much.reason
    assert enough.status == "ok" and enough.peak_bytes > 200 * 10**6


def test_a_task_that_uses_less_memory_after_an_error_is_recovered():
    """Four lessons of 150 MB do not fit in 400 MB; two do."""
    result = run("climb", 150)
    assert (result.status, result.rungs) == ("recovered", ["out of memory: 2 micro-batches of 2"])
    assert result.outcome is not None and result.outcome.answer == [300 * 10**6, 2, 2]


def test_a_task_that_never_fits_shows_every_rung():
    result = run("climb", 500)
    assert result.status == "oom" and "MemoryError" in result.reason
    assert [rung.removeprefix("out of memory: ") for rung in result.rungs] == [
        "2 micro-batches of 2",
        "4 micro-batches of 1",
        "recomputed activations",
        "no test-time training",
    ]


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("fail", "error", "ValueError: planted fault (task_functions.py:"),
        ("kill", "killed", "the worker was killed by SIGKILL"),
        ("leave", "error", "the worker ended with exit code 3 and no result"),
        ("function", "error", "Can't"),
    ],
)
def test_a_task_that_ends_badly_is_named(kind, status, reason):
    result = run(kind)
    assert result.status == status and reason in result.reason


def test_processes_that_a_task_started_end_with_it():
    result = run("child", limits=TaskLimits(wall_seconds=2, memory_bytes=None))
    assert result.status == "timeout" and result.outcome is not None
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _is_running(result.outcome.answer):
        time.sleep(0.05)
    assert not _is_running(result.outcome.answer)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_does_not_start_is_given_up(monkeypatch):
    monkeypatch.setattr(worker, "STARTUP_SECONDS", 0.0)
    result = run("ok", 1)
    assert (result.status, result.reason) == ("timeout", "the worker must start within 0 s")


def test_workers_are_spawned_where_there_is_no_fork_server(monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert worker.worker_context().get_start_method() == "spawn"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(12, os.strerror(12)), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("shapes differ"), False),
        (OSError(2, "no file"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, expected):
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(("field", "value"), [("wall_seconds", 0), ("cpu_seconds", -1.0), ("memory_bytes", 0), ("device", "tpu")])
def test_a_wrong_limit_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: must be"):
        TaskLimits(**{field: value})
