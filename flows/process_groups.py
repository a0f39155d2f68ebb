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
GENTLY = ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def end(groups: Iterable[int], reap: Callable[[], object] = lambda: None) -> None:
    """Ask `groups` to stop (SIGINT, and time for a checkpoint), then insist (SIGTERM), then kill. An interrupt of ours skips a wait.

    `reap` collects the exit status of children of ours, without which they would count as alive.
    """
    living = list(groups)
    for number, seconds in GENTLY:
        living = [group for group in living if _signal(group, number)]
        until = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):
            while living and time.monotonic() < until:
                reap()
                if living := [group for group in living if _signal(group, 0)]:
                    time.sleep(0.05)


def _signal(group: int, number: int) -> bool:
    """False if `group` has no process left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS: only zombies are left
        return False
    return True


def lives(number: str) -> bool:
    """Whether there is a process of this number, whosever it is."""
    try:
        os.kill(int(number), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def start(command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """`command` in a session of its own, so that a Ctrl-C reaches it only through us; kept until `release`."""
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace", **options
    )
    _tell(f"+{process.pid}")
    return process


def release(process: subprocess.Popen[str]) -> None:
    """`process` is done; the keeper forgets it."""
    _tell(f"-{process.pid}")


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`start(command)`; if the block is left by an exception, its group is ended first."""
    process = start(command, **options)
    try:
        yield process
    except BaseException:
        end([process.pid], process.poll)
        raise
    finally:
        release(process)


class Crew:
    """Commands that worker threads wait for, and that the main thread ends all at once when it is interrupted."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._members: dict[int, subprocess.Popen[str]] = {}

    @contextmanager
    def running(self, command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """`running(command)` as a member. InterruptedError once the crew was ended: nothing new begins then."""
        with ExitStack() as stack:
            with self._lock:
                if self.ended.is_set():
                    raise InterruptedError
                process = stack.enter_context(running(command, **options))
                self._members[process.pid] = process
            stack.callback(self._members.pop, process.pid)
            yield process

    def end(self) -> None:
        """Ask all members to stop, wait, insist; return when none is left."""
        with self._lock:
            self.ended.set()
            members = dict(self._members)
        end(members, lambda: [process.poll() for process in members.values()])


@functools.cache
def _keeper() -> IO[str]:
    process = subprocess.Popen([sys.executable, "-I", __file__], stdin=subprocess.PIPE, start_new_session=True, text=True)
    assert process.stdin is not None
    return process.stdin


def _tell(line: str) -> None:
    with suppress(BrokenPipeError):  # without a keeper we lose only the cleaning up after a kill -9
        _keeper().write(line + "\n")
        _keeper().flush()


def keep(lines: IO[str]) -> None:
    """Read which groups live until the writer is gone; end those that are left, the last started first."""
    living: dict[str, None] = {}
    for sign, group in ((line[0], line[1:]) for line in lines):
        if sign == "+":
            living[group] = None
        else:
            living.pop(group)
    for group in reversed(living):
        end([int(group)])


if __name__ == "__main__":
    keep(sys.stdin)
