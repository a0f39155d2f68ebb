"""Run sub-commands of `provenlm` in this process, on the projects that the tests of the stages build."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provenlm.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))

RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Iterator[RunCli]:
    """Run `provenlm WORDS…` in the current folder; return its exit status, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main.main(words)
        return status, *capsys.readouterr()

    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
