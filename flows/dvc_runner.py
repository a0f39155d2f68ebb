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
from provenlm.core.errors import UserError
from provenlm.core.paths import Layout
from provenlm.core.progress import MARK

DVC = [sys.executable, "-m", "dvc", "--wait-for-lock"]  # without waiting, two runs side by side fail now and then
KINDS = ("scrape", "filter", "dedupe", "tokenize", "train", "validate", "report")  # in the order in which they build on each other
LOCK_SECONDS = 0.2

How = Literal["ran", "cached", "restored"]  # restored: made before and kept, so what reads it may have to be made anew
Listener = Callable[[str], None]

_CACHED = re.compile(r"Stage '.+' didn't change, skipping")
_RESTORED = re.compile(r"Stage '.+' is cached - skipping run")
_CHATTER = re.compile(
    r"Running stage '|> python |(Updating|Generating) lock file|Use `dvc push`|To track the changes|To enable auto staging"
    r"|\s+(git add|dvc config core\.autostage)|Data and pipelines are up to date"
    r"|(.+: line \d+:\s+\d+ )?(Terminated|Killed)(\s|$)"  # what some shells say of a command that a signal ended
)
_FAILED = re.compile(r"ERROR: failed to reproduce '[^']*': ")
_BUSY = re.compile(r"is busy|Unable to acquire lock")
_HOLDER = re.compile(r'"pid": (\d+)')
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")


@dataclass(frozen=True)
class Step:
    """One stage of a plan, `stage` being its DVC address (`train@docs_moe`), and the stages of the plan that it reads from."""

    stage: str
    needs: tuple[str, ...]
    changed: bool
    force: bool = False  # run it even if nothing changed, as only a scrape may: the world is no dependency that DVC knows

    @property
    def kind(self) -> str:
        return self.stage.partition("@")[0]

    @property
    def subject(self) -> str:
        return self.stage.partition("@")[2]


class StageError(Exception):
    """A stage that did not get done; the message is one line: stage, reason, log."""


class StoppedError(StageError):
    """A stage that was asked to stop, or was not begun because others were."""


def environment() -> dict[str, str]:
    """That of a DVC process: `python` in a stage's command must be this one, and its lines must come as they are said."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def plan(targets: Sequence[str], root: Path, begin: str = KINDS[0]) -> list[Step]:
    """The stages that `targets` rest on, from those of the kind `begin` on, in DVC's order.

    UserError in DVC's words if dvc.yaml or params.yaml cannot be resolved.
    """
    command = [sys.executable, "-m", "flows.dvc_runner", *targets]
    with process_groups.running(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode:
        raise UserError(f"dvc.yaml: {' '.join(err.strip().splitlines()[-1:]) or 'DVC could not read it'}")
    steps = [Step(row["stage"], tuple(row["needs"]), row["changed"]) for row in json.loads(out)]
    chosen = {step.stage: step for step in steps if KINDS.index(step.kind) >= KINDS.index(begin)}
    return [replace(step, needs=tuple(need for need in step.needs if need in chosen)) for step in chosen.values()]


def verdict(report: str, root: Path) -> str:
    """The verdict of `report` as its stage computed it."""
    return str(json.loads(Layout(root).report(report, "json").read_text(encoding="utf-8"))["status"])


def repro(step: Step, root: Path, listen: Listener, crew: process_groups.Crew | None = None, slots: Sequence[Path] = ()) -> How:
    """Let DVC reproduce one stage, telling `listen` each line that the stage says. StageError names stage, reason and log.

    Two runs of one subject wait for each other, and a training takes one of `slots`, which several checkouts may share. If `crew` is
    ended meanwhile, the stage was asked to stop and has had its time for a checkpoint; then this raises StoppedError.
    """
    layout, crew = Layout(root), crew or process_groups.Crew()
    waiting = False
    with ExitStack() as stack:
        for files in ([layout.lock(step.subject)], slots if step.kind == "train" else []):
            stack.enter_context(alone(files, lambda: listen("waiting for another run of the same kind"), crew.ended))
        while not crew.ended.is_set():
            spoken = _Spoken(listen)
            with _log(layout.log(step.stage)) as log:
                code = _run(
                    [*DVC, "repro", "--single-item", *(["--force"] if step.force else []), step.stage], root, spoken, log, crew
                )
            if code == 0:
                return spoken.how
            if crew.ended.is_set():
                break
            reason = spoken.reason().removeprefix(f"{step.stage}: ")
            if not _BUSY.search(reason):
                raise StageError(f"{step.stage}: {reason}; log: {layout.log(step.stage).relative_to(root)}")
            if not waiting:
                listen(f"waiting for another DVC: {reason}")
            waiting = True
            _until_free(root / ".dvc/tmp/rwlock", crew.ended)
    raise StoppedError(f"{step.stage}: stopped; the next run goes on from here")


def _until_free(held: Path, ended: threading.Event) -> None:
    """Wait until `held`, where DVC notes who works on which paths, is written anew, or one of those who live there now is gone.

    Asking DVC again and again would take the lock that the other one needs when its stage ends; it would fail if nobody told it to wait.
    """

    def noted() -> str:
        return held.read_text(encoding="utf-8") if held.exists() else ""

    begun = noted()
    living = [number for number in _HOLDER.findall(begun) if process_groups.lives(number)]
    while not ended.wait(LOCK_SECONDS) and living and noted() == begun and all(map(process_groups.lives, living)):
        pass


@contextmanager
def alone(files: Sequence[Path], wait: Callable[[], None], ended: threading.Event | None = None) -> Iterator[None]:
    """Hold one of the lock files `files`, if there are any; `wait` is called once if other processes have them all.

    The kernel frees it however we die. StoppedError if `ended` is set before one is free.
    """
    ended, told = ended or threading.Event(), False
    while files:
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        if not told:
            wait()
        told = True
        if ended.wait(LOCK_SECONDS):
            raise StoppedError("stopped while waiting for another run")
    yield


@contextmanager
def _log(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", buffering=1) as file:
        yield file


@dataclass
class _Spoken:
    """What came out of `dvc repro`, told apart: the stage's lines, DVC's chatter, DVC's word at the end on why it failed."""

    listen: Listener
    last: str = ""
    refusal: str = ""
    how: How = "ran"

    def hear(self, line: str) -> None:
        if self.refusal or _FAILED.match(line):
            self.refusal = f"{self.refusal} {_FAILED.sub('', line).strip()}".lstrip()
        elif _CACHED.match(line):
            self.how = "cached"
        elif _RESTORED.match(line):
            self.how = "restored"
        elif not _CHATTER.match(line):
            self.last = self.last if line.startswith(MARK) else line
            self.listen(line)

    def reason(self) -> str:
        """Why it failed, in one line: the last that the stage said if it was the stage that failed, else what DVC said."""
        exited = _EXITED.search(self.refusal)
        if exited and exited[1] in ("-9", "137"):
            return "killed by signal 9; was there enough memory?"
        return self.last if self.last and (exited or not self.refusal) else self.refusal or "DVC ended without a word"


def _run(command: list[str], root: Path, spoken: _Spoken, log: IO[str], crew: process_groups.Crew) -> int:
    """Run `command` to its exit status. What a stage says while it is being stopped is heard too, but for a stack trace."""
    try:
        with crew.running(
            command, cwd=root, environment=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            tracing = False
            for line in filter(None, (line.rstrip() for line in process.stdout)):
                log.write(line + "\n")
                tracing = tracing or (crew.ended.is_set() and line.startswith("Traceback"))
                if not tracing:
                    spoken.hear(line)
            return process.wait()
    except InterruptedError:
        return -signal.SIGINT


def _plan(targets: Sequence[str]) -> list[dict[str, Any]]:
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


def _main(targets: Sequence[str]) -> None:
    from dvc.exceptions import DvcException

    try:
        json.dump(_plan(targets), sys.stdout)
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        sys.exit(" ".join(f"{error}{cause}".split()))


if __name__ == "__main__":
    _main(sys.argv[1:])
