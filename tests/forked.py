"""Start stages and functions in processes that tests can kill.

They are forks of a process that has imported torch, because an import takes seconds. What `python -m` adds is tested by
tests/test_pipeline.py.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO
from unittest import mock

from in_process import call_stage

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED_MODULES = ["stages.train"]  # by the process to fork from; a test may add others before the first start


class ForkedProcess:
    """Run a function in a new process.

    The methods are those of Popen; output and errors share a pipe.
    """

    def __init__(self, function: Callable[..., object], *arguments: object, **environment: str) -> None:
        reader, writer = CONTEXT.Pipe(duplex=False)
        _start_server()
        self._process = CONTEXT.Process(
            target=_call, args=(writer, {**os.environ, **environment}, function, arguments), daemon=True
        )
        self._process.start()
        writer.close()
        self.stdout: TextIO = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status; None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process and return its exit status."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "still running"
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Read the output to its end, wait for the process, and return the output."""
        with self.stdout:
            output = self.stdout.read()
        self.wait(timeout)
        return output, None


def start_stage(root: Path, stage: str, subject: str) -> ForkedProcess:
    """Start `python -m stages.STAGE SUBJECT` in `root`."""
    return ForkedProcess(run_stage, root, stage, subject, PYTHONPATH=str(ROOT))  # for its workers


def run_stage(root: Path, stage: str, subject: str) -> None:
    """Do in this process what `python -m stages.STAGE SUBJECT` does in `root`."""
    os.chdir(root)
    call_stage(stage, subject)


def _start_server() -> None:
    """Start the process to fork from, unless it runs already.

    It imports from its working folder, the repository.
    """
    CONTEXT.set_forkserver_preload(PRELOADED_MODULES)
    with contextlib.chdir(ROOT), mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


def _call(output: Connection, environment: dict[str, str], function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Call a function with its output and errors in a pipe."""
    for number in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(output.fileno(), number)
    output.close()
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
