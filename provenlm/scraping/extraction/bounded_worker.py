"""Call a function in a worker process that ends at a limit of CPU time.

HTML parsers take quadratic time or overflow the stack on hostile pages, inside C code that no exception reaches. Workers stay alive
between calls; a worker that was ended is replaced.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

WALL_SECONDS_PER_CPU_SECOND = 30  # a worker that waits for a busy machine is not ended before
STARTUP_SECONDS = 60.0
PRELOADED_MODULES = ["provenlm.scraping.extraction.text_extractor", "trafilatura"]
_slots = threading.BoundedSemaphore(os.cpu_count() or 1)
_lock = threading.Lock()
_idle: list["_Worker"] = []
_busy: set["_Worker"] = set()


class TimeLimitError(Exception):
    """Report a call that did not end within its CPU time."""


class WorkerCrashError(Exception):
    """Report a call that ended its process."""


def call_bounded(function: Callable[..., Any], arguments: tuple[Any, ...], max_seconds: float) -> Any:
    """Return `function(*arguments)`, computed in a worker.

    `function` is one of a module. Raises TimeLimitError after `max_seconds` of CPU time, WorkerCrashError if the process ended, and what
    the function raises.
    """
    with _slots:
        with _lock:
            worker = _idle.pop() if _idle else None
        worker = worker or _Worker()
        with _lock:
            _busy.add(worker)
        is_reusable = False
        try:
            result, error = worker.call(function, arguments, max_seconds)
            is_reusable = True
        finally:
            with _lock:
                _busy.discard(worker)
                if is_reusable:
                    _idle.append(worker)
            if not is_reusable:
                worker.process.kill()
    if error is not None:
        raise error
    return result


def end_running_calls() -> None:
    """Stop the calls of other threads, which raise WorkerCrashError."""
    with _lock:
        for worker in _busy:
            worker.process.kill()


class _Worker:
    """Hold a worker process and the connection to it."""

    def __init__(self) -> None:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(PRELOADED_MODULES)
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_serve_calls, args=(child_connection,), daemon=True)
        self.process.start()
        child_connection.close()

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], max_seconds: float) -> tuple[Any, Exception | None]:
        try:
            self.connection.send((function, arguments, max_seconds))
            if not self.connection.poll(STARTUP_SECONDS + WALL_SECONDS_PER_CPU_SECOND * max_seconds):
                raise TimeLimitError
            answer: tuple[Any, Exception | None] = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(STARTUP_SECONDS)
            raise (TimeLimitError if self.process.exitcode == -signal.SIGVTALRM else WorkerCrashError) from None
        return answer


def _serve_calls(connection: Connection) -> None:
    """Answer calls until the connection closes.

    The signal of the timer ends the process at the limit of CPU time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    while True:
        try:
            function, arguments, max_seconds = connection.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_VIRTUAL, max_seconds)
        answer: tuple[Any, Exception | None]
        try:
            answer = function(*arguments), None
        except Exception as error:  # the caller decides what a failed call means
            answer = None, error
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        connection.send(answer)
