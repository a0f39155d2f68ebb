"""Run a function in a worker process of its own, and survive whatever it does.

The worker is started by a fork server that has torch loaded already: 0.1 s instead of the seconds of importing it. Where there is no
fork server, it is spawned.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

from provenlm.domains.grids.evaluate.budgets import limits as limits_module
from provenlm.domains.grids.evaluate.budgets.limits import TaskLimits
from provenlm.domains.grids.evaluate.budgets.outcome import Status, TaskOutcome

STARTUP_SECONDS = 120.0  # to start a process and to import its modules
GRACE_SECONDS = 1.0  # between SIGTERM and SIGKILL, and after a result
KILL_SECONDS = 10.0  # for the kernel to remove a process
POLL_SECONDS = 0.25
PRELOADED_MODULES = ("torch", "provenlm.domains.grids.evaluate.budgets.worker")


class TaskChannel:
    """Let a task report from its worker while it runs."""

    def __init__(self, connection: Connection, stops_at: float) -> None:
        self._connection, self._stops_at = connection, stops_at
        self.rungs: list[str] = []

    @property
    def seconds_left(self) -> float:
        """Return the seconds until the worker is stopped."""
        return self._stops_at - time.monotonic()

    def log_rung(self, text: str) -> None:
        """Report that memory ran out and that the task goes on with less."""
        self.rungs.append(text)
        self._connection.send(("rung", text))

    def send_answer(self, outcome: TaskOutcome) -> None:
        """Send the best outcome so far, which counts if the task does not finish."""
        self._connection.send(("answer", outcome))


TaskFunction = Callable[[Any, TaskChannel], TaskOutcome]


@dataclass
class WorkerResult:
    """Hold what became of a worker."""

    status: Status = "error"
    reason: str = ""
    outcome: TaskOutcome | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    peak_device_bytes: int | None = None
    rungs: list[str] = field(default_factory=list)
    unenforced_limits: list[str] = field(default_factory=list)


def worker_context(preloaded_modules: Sequence[str] = ()) -> BaseContext:
    """Return the way to start workers: a fork server with loaded modules, or spawn.

    The modules of the first call in a process count, `PRELOADED_MODULES` among them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED_MODULES, *preloaded_modules])
    return context


def run_in_worker(function: TaskFunction, task: Any, limits: TaskLimits, context: BaseContext | None = None) -> WorkerResult:
    """Call `function(task, channel)` in a new process and wait for its end.

    Never raises for what the function does: the status says it. `function` is one of a module, because the worker imports it.
    """
    context = context or worker_context()
    receiver, sender = context.Pipe(duplex=False)
    start = time.monotonic()
    process = context.Process(target=_work, args=(function, task, limits, sender), daemon=True)  # type: ignore[attr-defined]
    process.start()
    sender.close()
    result = WorkerResult(reason=f"the worker must start within {STARTUP_SECONDS:.0f} s")
    try:
        _follow(process, receiver, limits, result)
    finally:
        _stop(process)
        receiver.close()
    result.wall_seconds = time.monotonic() - start
    return result


def _follow(process: Any, receiver: Connection, limits: TaskLimits, result: WorkerResult) -> None:
    """Read messages until the worker finishes, dies or exceeds its time."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        ready = wait([receiver, process.sentinel], min(left, POLL_SECONDS))
        if (usage := limits_module.process_usage(process.pid)) is not None:
            result.cpu_seconds, result.peak_bytes = usage
        if receiver not in ready and process.sentinel not in ready:
            continue
        try:
            message: tuple[str, Any] = receiver.recv() if receiver.poll() else ("ended", None)
        except (EOFError, OSError):
            message = ("ended", None)
        kind, value = message
        if kind == "started":
            result.unenforced_limits = value
            deadline = time.monotonic() + limits.wall_seconds
            result.reason = f"wall time must be <= {limits.wall_seconds:.1f} s"
        elif kind == "rung":
            result.rungs.append(value)
        elif kind == "answer":
            result.outcome = value
        elif kind == "finished":
            for name, field_value in value.items():
                setattr(result, name, field_value)
            process.join(GRACE_SECONDS)
            return
        else:
            process.join(GRACE_SECONDS)
            result.status, result.reason = _describe_exit(process.exitcode, limits)
            return
    result.status = "timeout"


def _describe_exit(exit_code: int | None, limits: TaskLimits) -> tuple[Status, str]:
    """Return status and reason of a worker that ended without a result."""
    if exit_code == -signal.SIGXCPU:
        return "timeout", f"CPU time must be <= {limits.cpu_seconds or 0:.1f} s"
    if exit_code is not None and exit_code < 0:
        return "killed", f"the worker was killed by {signal.Signals(-exit_code).name}"
    return "error", f"the worker ended with exit code {exit_code} and no result"


def _stop(process: Any) -> None:
    """End a worker and the processes that it started."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(ProcessLookupError):
            process.terminate() if number == signal.SIGTERM else process.kill()  # before it has a group of its own
        process.join(seconds)
    with contextlib.suppress(ValueError):
        process.close()


def _work(function: TaskFunction, task: Any, limits: TaskLimits, connection: Connection) -> None:
    """Run in the worker; end without a word if nobody waits for the result any more."""
    try:
        _run_task(function, task, limits, connection)
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)


def _run_task(function: TaskFunction, task: Any, limits: TaskLimits, connection: Connection) -> None:
    """Apply the limits, call the function, send what came of it."""
    with contextlib.suppress(OSError):
        os.setsid()  # a group of its own, so that a stop also reaches processes that the task starts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    unenforced = limits_module.apply_limits(limits)
    connection.send(("started", unenforced))
    channel = TaskChannel(connection, time.monotonic() + limits.wall_seconds)
    start = time.process_time()
    result: dict[str, Any] = {}
    try:
        outcome = function(task, channel)
        result = {"status": "recovered" if channel.rungs else "ok", "reason": "", "outcome": outcome}
    except BaseException as error:
        is_oom = limits_module.is_out_of_memory(error)
        result = {"status": "oom" if is_oom else "error", "reason": _error_line(error)}
    limits_module.lift_memory_limit()
    peak_bytes, peak_device_bytes = limits_module.peak_memory()
    result |= {"cpu_seconds": time.process_time() - start, "peak_bytes": peak_bytes, "peak_device_bytes": peak_device_bytes}
    try:
        connection.send(("finished", result))
    except Exception as error:  # an outcome that cannot be pickled
        connection.send(("finished", result | {"status": "error", "reason": _error_line(error), "outcome": None}))
    connection.close()


def _error_line(error: BaseException) -> str:
    """Return class, message and place of an exception on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{place}"


def _end_with_parent() -> None:
    """End this process when the one that started it has died."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
