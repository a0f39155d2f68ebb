"""Start commands in process groups and end them, even if this process is killed.

Run as a script, this file is the reaper: it reads `+GROUP` and `-GROUP` lines from standard input, and when the input ends it
terminates every group that is still registered. A pipe closes however its writer dies, so neither kernel features nor the
cooperation of the stages are needed, and it works on macOS too.
"""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

# DVC ignores SIGINT while a stage runs and releases its locks when the stage is done; SIGTERM would kill DVC and orphan the stage.
SHUTDOWN_SIGNALS = ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def terminate_groups(groups: Iterable[int], reap: Callable[[], object] = lambda: None) -> None:
    """Send SIGINT, SIGTERM and SIGKILL to the groups, and wait after each signal.

    KeyboardInterrupt skips a wait.

    SIGINT leaves time for a checkpoint. `reap` collects the exit status of our children, which would otherwise count as alive.
    """
    alive = list(groups)
    for signum, seconds in SHUTDOWN_SIGNALS:
        alive = [group for group in alive if _send_signal(group, signum)]
        deadline = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):
            while alive and time.monotonic() < deadline:
                reap()
                if alive := [group for group in alive if _send_signal(group, 0)]:
                    time.sleep(0.05)


def _send_signal(group: int, signum: int) -> bool:
    """Send a signal to a group; return whether the group has a process left."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: only zombies are left
        return False
    return True


def is_alive(pid: str) -> bool:
    """Return whether a process with this id exists, whoever owns it."""
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def spawn(command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start a command in its own session and register it with the reaper.

    Ctrl-C does not reach it there.
    """
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace", **options
    )
    _write_to_reaper(f"+{process.pid}")
    return process


def unregister(process: subprocess.Popen[str]) -> None:
    """Remove a finished process from the reaper."""
    _write_to_reaper(f"-{process.pid}")


@contextmanager
def managed_process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Spawn a command; if the block raises, terminate its group first."""
    process = spawn(command, **options)
    try:
        yield process
    except BaseException:
        terminate_groups([process.pid], process.poll)
        raise
    finally:
        unregister(process)


class ProcessSet:
    """Hold the commands of worker threads, so that the main thread can end them."""

    def __init__(self) -> None:
        self.terminated = threading.Event()
        self._lock = threading.Lock()
        self._processes: dict[int, subprocess.Popen[str]] = {}

    @contextmanager
    def managed_process(self, command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run a command as a member of the set.

        Raise InterruptedError if the set was already terminated.
        """
        with ExitStack() as stack:
            with self._lock:
                if self.terminated.is_set():
                    raise InterruptedError
                process = stack.enter_context(managed_process(command, **options))
                self._processes[process.pid] = process
            stack.callback(self._processes.pop, process.pid)
            yield process

    def terminate(self) -> None:
        """Terminate all members and return when none is left; no new one can start."""
        with self._lock:
            self.terminated.set()
            processes = dict(self._processes)
        terminate_groups(processes, lambda: [process.poll() for process in processes.values()])


@functools.cache
def _reaper() -> IO[str]:
    process = subprocess.Popen([sys.executable, "-I", __file__], stdin=subprocess.PIPE, start_new_session=True, text=True)
    assert process.stdin is not None
    return process.stdin


def _write_to_reaper(line: str) -> None:
    with suppress(BrokenPipeError):  # without the reaper only the cleanup after a kill -9 is lost
        _reaper().write(line + "\n")
        _reaper().flush()


def reap_orphans(lines: IO[str]) -> None:
    """Read registrations until the writer ends, then terminate the rest.

    The command that started last is terminated first.
    """
    registered: dict[str, None] = {}
    for sign, group in ((line[0], line[1:]) for line in lines):
        if sign == "+":
            registered[group] = None
        else:
            registered.pop(group)
    for group in reversed(registered):
        terminate_groups([int(group)])


if __name__ == "__main__":
    reap_orphans(sys.stdin)
