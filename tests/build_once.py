"""Build a folder once for all workers of pytest-xdist."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that `build` filled in the first worker that asked.

    Tests only read it.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers have folders of their own below a common one
        base = base.parent
    folder, partial = base / f"shared-{name}", base / f"shared-{name}.partial"
    with (base / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)  # left by a worker whose build failed
            partial.mkdir()
            build(partial)
            partial.rename(folder)
    return folder
