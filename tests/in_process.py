"""Run stages and commands in this process, which saves the seconds that a new process needs to import torch."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

import provenlm.domains
import provenlm.models
from provenlm.cli import main as cli
from provenlm.core.stages import CORPUS_STAGES, RECIPE_STAGES
from stages import runner

PLUGINS = Path(__file__).resolve().parent / "plugins" / "provenlm"


def call_stage(stage: str, subject: str) -> int:
    """Do what `python -m stages.STAGE SUBJECT` does after its start.

    Raises SystemExit if the stage fails.
    """
    module = importlib.import_module(f"stages.{stage}")
    table = "corpora" if stage in CORPUS_STAGES else "recipes" if stage in RECIPE_STAGES else "reports"
    with mock.patch.object(sys, "argv", [stage, subject]):
        if stage == "scrape":
            module.main()
        else:
            runner.main(stage, table, module.run_stage, module.__doc__)
    return 0


def run_stage(root: Path, stage: str, subject: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m stages.STAGE SUBJECT` in `root` and return its exit status and output."""
    return run_in(root, lambda: call_stage(stage, subject))


def run_command(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `provenlm ARGUMENTS` in `root` and return its exit status and output."""
    return run_in(root, lambda: cli.main(arguments))


def run_in(root: Path, command: Callable[[], int]) -> "subprocess.CompletedProcess[str]":
    """Run a function in `root`; an exit with a message is status 1, as in a process."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, environment = torch.get_num_threads(), dict(os.environ)
    with contextlib.chdir(root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command()
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            status = 1 if isinstance(error.code, str) else int(error.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            torch.set_num_threads(threads)
            os.environ.clear()
            os.environ.update(environment)
    return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def toy_plugins() -> Iterator[None]:
    """Make the toy domain and the toy model known, as their folder on PYTHONPATH does."""
    packages = (provenlm.domains, provenlm.models)
    with contextlib.ExitStack() as stack:
        for package in packages:
            folder = str(PLUGINS / package.__name__.rpartition(".")[2])
            stack.enter_context(mock.patch.object(package, "__path__", [*package.__path__, folder]))
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.startswith(("provenlm.domains.toy_", "provenlm.models.toy_"))]:
                del sys.modules[name]
