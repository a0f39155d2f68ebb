"""Block the side effects of imported modules: network, processes and writes."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

FORBIDDEN_EVENTS = {
    "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.startfile", "os.kill", "pty.spawn",
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.move", "tempfile.mkstemp", "tempfile.mkdtemp", "webbrowser.open", "ftplib.connect", "smtplib.connect",
}  # fmt: skip
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install_audit_hook() -> None:
    """Forbid audited events with external side effects in this process (PEP 578)."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITE_FLAGS and arguments[0] != os.devnull
    if event in FORBIDDEN_EVENTS or writes:
        raise PermissionError(f"{event} is forbidden here")


class UnexpectedOutputError(Exception):
    """Report a module that wrote to standard output while it was imported."""


@contextlib.contextmanager
def guarded(seconds: float) -> Iterator[None]:
    """Run the block with captured standard output and a time limit.

    Raises UnexpectedOutputError or TimeoutError.
    """
    output = io.StringIO()
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread:
        signal.signal(signal.SIGALRM, _raise_timeout)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        if is_main_thread:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if output.getvalue():
        raise UnexpectedOutputError("the module prints when it is imported")


def _raise_timeout(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the module takes too long")
