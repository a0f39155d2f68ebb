"""Start and stop the child process that serves pydoc pages."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provenlm.core.errors import ConfigError

HOST = "pydoc.localhost"
SCHEME = "pydoc:"
ROOT = Path(__file__).resolve().parents[3]


def start_url(start: str) -> str:
    """Return the URL of `pydoc:NAME`.

    It has no port, so that URLs and records are the same in every run.
    """
    return f"http://{HOST}/{start.removeprefix(SCHEME)}/"


@contextmanager
def serve(packages: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Serve the pages of `packages` while the block runs.

    Yields the loopback address and port. The environment of the child process is fixed and nearly empty: it must not reach
    any page, and sets must print in one order. Raises ConfigError for a package that is not installed.
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
        message = json.loads(child.stdout.readline() or '{"error": "the documentation server exited at startup"}')
        if "error" in message:
            raise ConfigError(f"start_urls: {message['error']}")
        yield "127.0.0.1", message["port"]
    finally:
        child.kill()
        child.communicate()
