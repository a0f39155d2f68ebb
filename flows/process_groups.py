"""Commands in, process groups out that end in order: on an interrupt by us, on our sudden death by a keeper that outlives us.

Run as a script this file is the keeper: `+GROUP` and `-GROUP` lines on standard input, and at its end every group still listed is
ended. A pipe closes however its writer dies, so no help is needed from the kernel or from the stages, and it works on macOS too.
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
    """Ask `groups` to stop (SIGINT, and time for a checkpoint), then insist (SIGTERM), then kill. An interrupt of ours skips a wait.

    `reap` collects the exit status of children of ours, without which they would count as alive.
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
    """False if `group` has no process left."""
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: only zombies are left
        return False
    return True


def is_alive(pid: str) -> bool:
    """Whether there is a process of this number, whosever it is."""
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def spawn(command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """`command` in a session of its own, so that a Ctrl-C reaches it only through us; kept until `release`."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace", **options
    )
    _write_to_reaper(f"+{process.pid}")
    return process


def unregister(process: subprocess.Popen[str]) -> None:
    """`process` is done; the keeper forgets it."""
    _write_to_reaper(f"-{process.pid}")


@contextmanager
def managed_process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`start(command)`; if the block is left by an exception, its group is ended first."""
    process = spawn(command, **options)
    try:
        yield process
    except BaseException:
        terminate_groups([process.pid], process.poll)
        raise
    finally:
        unregister(process)


class ProcessSet:
    """Commands that worker threads wait for, and that the main thread ends all at once when it is interrupted."""

    def __init__(self) -> None:
        self.terminated = threading.Event()
        self._lock = threading.Lock()
        self._processes: dict[int, subprocess.Popen[str]] = {}

    @contextmanager
    def managed_process(self, command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """`running(command)` as a member. InterruptedError once the crew was ended: nothing new begins then."""
        with ExitStack() as stack:
            with self._lock:
                if self.terminated.is_set():
                    raise InterruptedError
                process = stack.enter_context(managed_process(command, **options))
                self._processes[process.pid] = process
            stack.callback(self._processes.pop, process.pid)
            yield process

    def terminate(self) -> None:
        """Ask all members to stop, wait, insist; return when none is left."""
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
    with suppress(BrokenPipeError):  # without a keeper we lose only the cleaning up after a kill -9
        _reaper().write(line + "\n")
        _reaper().flush()


def reap_orphans(lines: IO[str]) -> None:
    """Read which groups live until the writer is gone; end those that are left, the last started first."""
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
