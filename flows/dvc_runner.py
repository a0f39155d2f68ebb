"""What DVC would do, stage by stage, and one stage done by it: its lines, and whether it ran or was up to date.

Run as `python -m flows.dvc_runner STAGE …` this file prints the plan as JSON. That is a process of its own because DVC resolves names
against the working folder of the process, and holds locks in the name of the process.
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
from provenlm.core.errors import ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import PROGRESS_PREFIX

DVC_COMMAND = [sys.executable, "-m", "dvc", "--wait-for-lock"]  # without waiting, two runs side by side fail now and then
STAGE_NAMES = (
    "scrape",
    "filter",
    "dedupe",
    "tokenize",
    "train",
    "validate",
    "report",
)  # in the order in which they build on each other
LOCK_SECONDS = 0.2

StageStatus = Literal["ran", "cached", "restored"]  # restored: made before and kept, so what reads it may have to be made anew
LineListener = Callable[[str], None]

_CACHED = re.compile(r"Stage '.+' didn't change, skipping")
_RESTORED = re.compile(r"Stage '.+' is cached - skipping run")
_DVC_NOISE = re.compile(
    r"Running stage '|> python |(Updating|Generating) lock file|Use `dvc push`|To track the changes|To enable auto staging"
    r"|\s+(git add|dvc config core\.autostage)|Data and pipelines are up to date"
    r"|(.+: line \d+:\s+\d+ )?(Terminated|Killed)(\s|$)"  # what some shells say of a command that a signal ended
)
_FAILED = re.compile(r"ERROR: failed to reproduce '[^']*': ")
_BUSY = re.compile(r"is busy|Unable to acquire lock")
_LOCK_PID = re.compile(r'"pid": (\d+)')
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan, `stage` being its DVC address (`train@docs_moe`), and the stages of the plan that it reads from."""

    address: str
    dependencies: tuple[str, ...]
    changed: bool
    force: bool = False  # run it even if nothing changed, as only a scrape may: the world is no dependency that DVC knows

    @property
    def stage_name(self) -> str:
        return self.address.partition("@")[0]

    @property
    def subject(self) -> str:
        return self.address.partition("@")[2]


class StageError(Exception):
    """A stage that did not get done; the message is one line: stage, reason, log."""


class StageCancelledError(StageError):
    """A stage that was asked to stop, or was not begun because others were."""


def dvc_environment() -> dict[str, str]:
    """That of a DVC process: `python` in a stage's command must be this one, and its lines must come as they are said."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def plan_stages(targets: Sequence[str], root: Path, start_at: str = STAGE_NAMES[0]) -> list[PlannedStage]:
    """The stages that `targets` rest on, from those of the kind `begin` on, in DVC's order.

    ProvenlmError in DVC's words if dvc.yaml or params.yaml cannot be resolved.
    """
    command = [sys.executable, "-m", "flows.dvc_runner", *targets]
    with process_groups.managed_process(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode:
        raise ProvenlmError(f"dvc.yaml: {' '.join(err.strip().splitlines()[-1:]) or 'DVC could not read it'}")
    steps = [PlannedStage(row["stage"], tuple(row["needs"]), row["changed"]) for row in json.loads(out)]
    selected = {step.address: step for step in steps if STAGE_NAMES.index(step.stage_name) >= STAGE_NAMES.index(start_at)}
    return [
        replace(step, dependencies=tuple(dependency for dependency in step.dependencies if dependency in selected))
        for step in selected.values()
    ]


def report_status(report: str, root: Path) -> str:
    """The verdict of `report` as its stage computed it."""
    return str(json.loads(ProjectPaths(root).report_file(report, "json").read_text(encoding="utf-8"))["status"])


def reproduce(
    step: PlannedStage,
    root: Path,
    listen: LineListener,
    processes: process_groups.ProcessSet | None = None,
    slots: Sequence[Path] = (),
) -> StageStatus:
    """Let DVC reproduce one stage, telling `listen` each line that the stage says. StageError names stage, reason and log.

    Two runs of one subject wait for each other, and a training takes one of `slots`, which several checkouts may share. If `crew` is
    ended meanwhile, the stage was asked to stop and has had its time for a checkpoint; then this raises StoppedError.
    """
    layout, processes = ProjectPaths(root), processes or process_groups.ProcessSet()
    has_waited = False
    with ExitStack() as stack:
        for lock_files in ([layout.file_lock(step.subject)], slots if step.stage_name == "train" else []):
            stack.enter_context(
                exclusive_lock(lock_files, lambda: listen("waiting for another run of the same kind"), processes.terminated)
            )
        while not processes.terminated.is_set():
            output = _DvcOutput(listen)
            with _log(layout.stage_log(step.address)) as log:
                returncode = _run_dvc(
                    [*DVC_COMMAND, "repro", "--single-item", *(["--force"] if step.force else []), step.address],
                    root,
                    output,
                    log,
                    processes,
                )
            if returncode == 0:
                return output.status
            if processes.terminated.is_set():
                break
            reason = output.failure_reason().removeprefix(f"{step.address}: ")
            if not _BUSY.search(reason):
                raise StageError(f"{step.address}: {reason}; log: {layout.stage_log(step.address).relative_to(root)}")
            if not has_waited:
                listen(f"waiting for another DVC: {reason}")
            has_waited = True
            _wait_until_free(root / ".dvc/tmp/rwlock", processes.terminated)
    raise StageCancelledError(f"{step.address}: stopped; the next run goes on from here")


def _wait_until_free(rwlock_path: Path, cancelled: threading.Event) -> None:
    """Wait until `held`, where DVC notes who works on which paths, is written anew, or one of those who live there now is gone.

    Asking DVC again and again would take the lock that the other one needs when its stage ends; it would fail if nobody told it to wait.
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
    """Hold one of the lock files `files`, if there are any; `wait` is called once if other processes have them all.

    The kernel frees it however we die. StoppedError if `ended` is set before one is free.
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
    """What came out of `dvc repro`, told apart: the stage's lines, DVC's chatter, DVC's word at the end on why it failed."""

    listen: LineListener
    last_line: str = ""
    dvc_error: str = ""
    status: StageStatus = "ran"

    def add_line(self, line: str) -> None:
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
        """Why it failed, in one line: the last that the stage said if it was the stage that failed, else what DVC said."""
        exit_match = _EXITED.search(self.dvc_error)
        if exit_match and exit_match[1] in ("-9", "137"):
            return "killed by signal 9; was there enough memory?"
        return (
            self.last_line
            if self.last_line and (exit_match or not self.dvc_error)
            else self.dvc_error or "DVC ended without a word"
        )


def _run_dvc(command: list[str], root: Path, output: _DvcOutput, log: IO[str], processes: process_groups.ProcessSet) -> int:
    """Run `command` to its exit status. What a stage says while it is being stopped is heard too, but for a stack trace."""
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
        except LockError:  # another run is at it: DVC will decide when its turn comes
            return True

    with Repo(_wait_for_lock=True) as repo, repo.lock:
        graph = get_active_graph(repo.index.graph)
        steps = plan_repro(graph, collect_stages(repo, targets))
        return [
            {"stage": step.addressing, "needs": [n.addressing for n in graph.successors(step)], "changed": changed(step)}
            for step in steps
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
