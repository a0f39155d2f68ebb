"""Plan stages with DVC, and run one stage at a time through `dvc repro`.

Run as `python -m flows.dvc_runner TARGET …`, this file prints the plan as JSON. It runs in a separate process because DVC resolves
names against the working folder of the process and holds its locks per process.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from flows import process_groups
from provenlm.core.config import Params
from provenlm.core.errors import ConfigError, ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import PROGRESS_PREFIX
from provenlm.core.stages import STAGES

DVC_COMMAND = [sys.executable, "-m", "dvc", "--wait-for-lock"]  # without it, parallel runs fail sporadically
LOCK_SECONDS = 0.2

StageStatus = Literal["ran", "cached", "restored"]  # restored from the DVC cache: stages that read it may have to run
LineListener = Callable[[str], None]

_CACHED = re.compile(r"Stage '.+' didn't change, skipping")
_RESTORED = re.compile(r"Stage '.+' is cached - skipping run")
_DVC_NOISE = re.compile(
    r"Running stage '|> python |(Updating|Generating) lock file|Use `dvc push`|To track the changes|To enable auto staging"
    r"|\s+(git add|dvc config core\.autostage)|Data and pipelines are up to date"
    r"|(.+: line \d+:\s+\d+ )?(Terminated|Killed)(\s|$)"  # what some shells print about a command that a signal ended
)
_FAILED = re.compile(r"ERROR: failed to reproduce '[^']*': ")
_BUSY = re.compile(r"is busy|Unable to acquire lock")
_LOCK_PID = re.compile(r'"pid": (\d+)')
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")


@dataclass(frozen=True)
class PlannedStage:
    """Describe a stage of a plan by its DVC address and its dependencies.

    An address is like `train@docs_moe`; the dependencies are stages of the plan.
    """

    address: str
    dependencies: tuple[str, ...]
    changed: bool
    force: bool = False  # run it even if unchanged; for scrape, whose sources are no dependencies that DVC knows

    @property
    def name(self) -> str:
        """Return the part before the @: the name of the stage."""
        return self.address.partition("@")[0]

    @property
    def subject(self) -> str:
        """Return the part after the @: the corpus, recipe or report."""
        return self.address.partition("@")[2]


class StageError(ProvenlmError):
    """Report a stage that failed; the message is one line: stage, reason, log."""


class StageCancelledError(StageError):
    """Report a stage that was cancelled, or not started because the run was cancelled."""


def dvc_environment() -> dict[str, str]:
    """Return the environment of a DVC process.

    In it, `python` is this interpreter and output is unbuffered.
    """
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def plan_stages(targets: Sequence[str], root: Path, start_at: str = STAGES[0]) -> list[PlannedStage]:
    """Return the stages that the targets depend on in DVC's order, from `start_at` on.

    Raises ConfigError with DVC's message if dvc.yaml or params.yaml cannot be resolved.
    """
    command = [sys.executable, "-m", "flows.dvc_runner", *targets]
    with process_groups.managed_process(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode:
        raise ConfigError(f"dvc.yaml: {' '.join(err.strip().splitlines()[-1:]) or 'DVC could not read it'}")
    stages = [PlannedStage(row["address"], tuple(row["dependencies"]), row["changed"]) for row in json.loads(out)]
    selected = {stage.address: stage for stage in stages if STAGES.index(stage.name) >= STAGES.index(start_at)}
    return [
        replace(stage, dependencies=tuple(dependency for dependency in stage.dependencies if dependency in selected))
        for stage in selected.values()
    ]


def resolve_reports(names: Sequence[str], params: Params) -> list[str]:
    """Return the reports selected by report or recipe names.

    Without names, the first report.

    Raises ConfigError for a name that is neither a report nor a recipe of a report.
    """
    reports = params.tables["reports"]
    if not names:
        return list(reports)[:1]
    report_names: dict[str, None] = {}
    for name in names:
        matches = [name] if name in reports else [report for report in reports if name in params.recipes_of(report)]
        if not matches:
            params.entry("reports", name)
        report_names |= dict.fromkeys(matches)
    return list(report_names)


def report_status(report: str, root: Path) -> str:
    """Return the verdict that the report stage computed."""
    return str(json.loads(ProjectPaths(root).report_file(report, "json").read_text(encoding="utf-8"))["status"])


def reproduce(
    stage: PlannedStage,
    root: Path,
    listen: LineListener,
    processes: process_groups.ProcessSet | None = None,
    train_locks: Sequence[Path] = (),
) -> StageStatus:
    """Reproduce one stage with DVC and pass each output line of the stage to `listen`.

    Runs of the same subject wait for each other, and a train stage takes one of `train_locks`, which several checkouts may share.
    Raises StageError with stage, reason and log; StageCancelledError if `processes` was terminated, after the stage had time to save a
    checkpoint.
    """
    paths, processes = ProjectPaths(root), processes or process_groups.ProcessSet()
    has_waited = False
    with ExitStack() as stack:
        for lock_files in ([paths.file_lock(stage.subject)], train_locks if stage.name == "train" else []):
            stack.enter_context(
                exclusive_lock(lock_files, lambda: listen("waiting for another run of the same stage"), processes.terminated)
            )
        while not processes.terminated.is_set():
            output = _DvcOutput(listen)
            with _log(paths.stage_log(stage.address)) as log:
                returncode = _run_dvc(
                    [*DVC_COMMAND, "repro", "--single-item", *(["--force"] if stage.force else []), stage.address],
                    root,
                    output,
                    log,
                    processes,
                )
            if returncode == 0:
                return output.status
            if processes.terminated.is_set():
                break
            reason = output.failure_reason().removeprefix(f"{stage.address}: ")
            if not _BUSY.search(reason):
                raise StageError(f"{stage.address}: {reason}; log: {paths.stage_log(stage.address).relative_to(root)}")
            if not has_waited:
                listen(f"waiting for another DVC process: {reason}")
            has_waited = True
            _wait_until_free(root / ".dvc/tmp/rwlock", processes.terminated)
    raise StageCancelledError(f"{stage.address}: stopped; the next run resumes from here")


def _wait_until_free(rwlock_path: Path, cancelled: threading.Event) -> None:
    """Wait until DVC's rwlock file changes or a process that it names has ended.

    Polling DVC itself would take the lock that the other DVC process needs at the end of its stage, so that its run would fail.
    """

    def read_lock() -> str:
        return rwlock_path.read_text(encoding="utf-8") if rwlock_path.exists() else ""

    initial = read_lock()
    holders = [pid for pid in _LOCK_PID.findall(initial) if process_groups.is_alive(pid)]
    while not cancelled.wait(LOCK_SECONDS) and holders and read_lock() == initial and all(map(process_groups.is_alive, holders)):
        pass


@contextmanager
def exclusive_lock(
    lock_files: Sequence[Path], on_wait: Callable[[], None], cancelled: threading.Event | None = None
) -> Iterator[None]:
    """Hold one of the lock files, if there are any.

    Call `on_wait` once if other processes hold all of them.

    The kernel releases the lock however this process ends. Raises StageCancelledError if `cancelled` is set before a lock is free.
    """
    cancelled, has_waited = cancelled or threading.Event(), False
    while lock_files:
        for path in lock_files:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        if not has_waited:
            on_wait()
        has_waited = True
        if cancelled.wait(LOCK_SECONDS):
            raise StageCancelledError("stopped while waiting for another run")
    yield


@contextmanager
def _log(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", buffering=1) as file:
        yield file


@dataclass
class _DvcOutput:
    """Separate the output of `dvc repro` into stage lines, messages and the error."""

    listen: LineListener
    last_line: str = ""
    dvc_error: str = ""
    status: StageStatus = "ran"

    def add_line(self, line: str) -> None:
        """Classify one line of output and pass lines of the stage to the listener."""
        if self.dvc_error or _FAILED.match(line):
            self.dvc_error = f"{self.dvc_error} {_FAILED.sub('', line).strip()}".lstrip()
        elif _CACHED.match(line):
            self.status = "cached"
        elif _RESTORED.match(line):
            self.status = "restored"
        elif not _DVC_NOISE.match(line):
            self.last_line = self.last_line if line.startswith(PROGRESS_PREFIX) else line
            self.listen(line)

    def failure_reason(self) -> str:
        """Return the last line of the stage if the stage failed, otherwise DVC's error."""
        exit_match = _EXITED.search(self.dvc_error)
        if exit_match and exit_match[1] in ("-9", "137"):
            return "killed by signal 9; out of memory?"
        return (
            self.last_line
            if self.last_line and (exit_match or not self.dvc_error)
            else self.dvc_error or "DVC failed without a message"
        )


def _run_dvc(command: list[str], root: Path, output: _DvcOutput, log: IO[str], processes: process_groups.ProcessSet) -> int:
    """Run a command and return its exit status.

    While it is being stopped, drop the stack trace of the stage.
    """
    try:
        with processes.managed_process(
            command, cwd=root, environment=dvc_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            in_traceback = False
            for line in filter(None, (line.rstrip() for line in process.stdout)):
                log.write(line + "\n")
                in_traceback = in_traceback or (processes.terminated.is_set() and line.startswith("Traceback"))
                if not in_traceback:
                    output.add_line(line)
            return process.wait()
    except InterruptedError:
        return -signal.SIGINT


def _collect_plan(targets: Sequence[str]) -> list[dict[str, Any]]:
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    def changed(stage: Any) -> bool:
        try:
            return bool(stage.status())
        except LockError:  # another run holds the lock; DVC decides when this stage runs
            return True

    with Repo(_wait_for_lock=True) as repo, repo.lock:
        graph = get_active_graph(repo.index.graph)
        stages = plan_repro(graph, collect_stages(repo, targets))
        return [
            {
                "address": stage.addressing,
                "dependencies": [dependency.addressing for dependency in graph.successors(stage)],
                "changed": changed(stage),
            }
            for stage in stages
        ]


def _print_plan(targets: Sequence[str]) -> None:
    from dvc.exceptions import DvcException

    try:
        json.dump(_collect_plan(targets), sys.stdout)
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        sys.exit(" ".join(f"{error}{cause}".split()))


if __name__ == "__main__":
    _print_plan(sys.argv[1:])
