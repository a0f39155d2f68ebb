"""The frame of every stage: argv and params in; around the stage's own work a clock, a kernel's view of memory, and a signed audit out."""

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from provenlm.core import audit as audits
from provenlm.core import config as parameters
from provenlm.core import hashing
from provenlm.core.errors import UserError
from provenlm.core.executors import local
from provenlm.core.executors.base import Corpus
from provenlm.core.paths import Layout
from provenlm.core.progress import say

S = TypeVar("S")
PACKAGES = [
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "requests",
    "beautifulsoup4",
    "lxml",
    "sentencepiece",
    "fastokens",
    "transformers",
    "safetensors",
    "matplotlib",
    "numba",
    "py3langid",
]


class Stop:
    """True once SIGTERM or SIGINT asked us to end. The first asks; a second SIGTERM ends us at once."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGTERM:
            os._exit(128 + number)
        self.signal = self.signal or number

    def __bool__(self) -> bool:
        return self.signal != 0


@dataclass
class Run:
    """One run of one stage on one subject (a corpus, a recipe or a report)."""

    stage: str
    table: str
    subject: str
    layout: Layout
    params: parameters.Params
    audit: audits.Recorder = field(default_factory=audits.Recorder)
    facts: dict[str, Any] = field(default_factory=dict)  # of the provenance: device, seed, threads …
    read: list[Path] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    slices: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> Any:
        return self.params.row(self.table, self.subject)

    def settings(self, section: str, kind: type[S]) -> S:
        """The subject's section of params.yaml, typed; it becomes part of the audit's provenance."""
        self.slices[f"{self.table}.{self.subject}.{section}"] = self.row[section]
        return self.params.settings(self.table, self.subject, section, kind)

    def records(self, folder: Path) -> Corpus:
        """The records of `folder`, on the engine that the corpus names."""
        name = self.row.get("engine")
        return local.over(folder, None if name is None else str(name))

    def reads(self, path: Path) -> Path:
        """Declare an input: its digest goes into the audit. UserError if it is not there."""
        if not path.exists():
            raise UserError(
                f"{path.relative_to(self.layout.root).as_posix()}: not there; `dvc repro {self.stage}@{self.subject}` makes it"
            )
        self.read.append(path)
        return path

    def writes(self, path: Path) -> Path:
        """Declare an output: its digest goes into the audit."""
        self.written.append(path)
        return path


def main(stage: str, table: str, body: Callable[[Run], None], doc: str | None) -> None:
    """Run `body` for the subject named on the command line and write its audit. Exit 1 with one line on a user's mistake."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=doc)
    parser.add_argument("subject", help=f"a name below `{table}` in params.yaml")
    subject = parser.parse_args().subject
    layout = Layout(Path.cwd())
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        run = Run(stage, table, subject, layout, parameters.load(layout.params))
        run.params.row(table, subject)  # a wrong name is a mistake of the first line
        body(run)
    except UserError as error:
        sys.exit(f"{stage}@{subject}: {error}")
    seconds = time.perf_counter() - clock
    usage = resource.getrusage(resource.RUSAGE_SELF)
    run.audit.measured("seconds", round(seconds, 3), "s", "wall time of the stage, imports not included")
    run.audit.measured(
        "cpu_seconds", round(usage.ru_utime + usage.ru_stime, 3), "s", "CPU time of the stage's process, by the kernel"
    )
    run.audit.measured("peak_memory", usage.ru_maxrss * 1024, "bytes", "largest resident set of the stage's process, by the kernel")
    made = audits.Audit(subject, stage, run.audit.figures, run.audit.series, run.audit.tables, provenance(run, started))
    audits.write(layout.audit(subject, stage), made)
    say(f"{stage}@{subject}: {len(made.figures)} figures in {seconds:.1f} s")


def provenance(run: Run, started: datetime) -> dict[str, Any]:
    """Everything needed to repeat or doubt a run: command, params, digests of inputs, outputs and code, versions, machine, time."""
    root = run.layout.root.resolve()
    code = loaded_code(root)
    return {
        "command": f"python -m stages.{run.stage} {run.subject}",
        "params": run.slices,
        "params_digest": hashing.of_json(run.slices),
        "inputs": [[path.relative_to(run.layout.root).as_posix(), hashing.of_path(path)] for path in run.read],
        "outputs": [[path.relative_to(run.layout.root).as_posix(), hashing.of_path(path)] for path in run.written],
        "code": [path.relative_to(root).as_posix() for path in code],
        "code_digest": hashing.of_files(code, root),
        **git_state(root),
        **run.facts,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **versions()},
        "started": started.isoformat(timespec="seconds"),
    }


def loaded_code(root: Path) -> list[Path]:
    """The project's own files below `root` that this process has imported so far."""
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted(
        path
        for path in {Path(file).resolve() for file in loaded if file}
        if path.is_relative_to(root) and path.relative_to(root).parts[0] in ("provenlm", "stages")
    )


def git_state(root: Path) -> dict[str, Any]:
    """The commit checked out below `root`, and whether tracked files differ from it; empty words outside a repository.

    What the stages themselves write (reports/ and dvc.lock) does not count: it changes with every run.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports", ":!dvc.lock")),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that are loaded in this process and can move a figure."""
    names = {"beautifulsoup4": "bs4"}
    return {name: metadata.version(name) for name in PACKAGES if names.get(name, name) in sys.modules}
