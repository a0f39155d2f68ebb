"""Keeps a documented module from acting while it is imported and rendered: no network, no process, no file written, nothing printed."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

FORBIDDEN = {
    "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.startfile", "os.kill", "pty.spawn",
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.move", "tempfile.mkstemp", "tempfile.mkdtemp", "webbrowser.open", "ftplib.connect", "smtplib.connect",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install() -> None:
    """Forbid, for the rest of this process, every audited event by which Python code acts on the world (PEP 578)."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING and arguments[0] != os.devnull
    if event in FORBIDDEN or writes:
        raise PermissionError(f"{event} is forbidden here")


class PrintedError(Exception):
    """A module wrote to standard output while it was imported."""


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Run the block with standard output caught and a limit of time. PrintedError or TimeoutError if it does not behave."""
    caught = io.StringIO()
    main = threading.current_thread() is threading.main_thread()
    if main:
        signal.signal(signal.SIGALRM, _late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stdout(caught):
            yield
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if caught.getvalue():
        raise PrintedError("it prints when it is imported")


def _late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("it takes too long")
