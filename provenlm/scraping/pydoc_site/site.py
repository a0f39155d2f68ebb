"""Package names in, a running documentation site out: the parent's side of the child process that renders and serves it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provenlm.core.errors import ProvenlmError

HOST = "pydoc.localhost"
SCHEME = "pydoc:"
ROOT = Path(__file__).resolve().parents[3]


def start_url(start: str) -> str:
    """The address of `pydoc:NAME`: it names no port, so that addresses and records are the same in every run."""
    return f"http://{HOST}/{start.removeprefix(SCHEME)}/"


@contextmanager
def serve(packages: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The loopback address and port at which the site answers while the block runs. ProvenlmError for a package that is not installed.

    The environment is fixed and nearly empty: what it holds must reach no page, and sets print in one order.
    """
    environment = {
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HOME": "/nonexistent",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    if "SYSTEMROOT" in os.environ:
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    command = [sys.executable, "-P", "-s", "-B", "-W", "ignore", "-m", "provenlm.scraping.pydoc_site.server", *packages]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd="/")
    try:
        assert child.stdout is not None
        message = json.loads(child.stdout.readline() or '{"error": "the documentation server ended at once"}')
        if "error" in message:
            raise ProvenlmError(f"start: {message['error']}")
        yield "127.0.0.1", message["port"]
    finally:
        child.kill()
        child.communicate()
