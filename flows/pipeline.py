"""What DVC would do, stage by stage, and one stage done by it: its lines, and whether it ran or was up to date.

Run as `python -m flows.pipeline STAGE …` this file prints the plan as JSON. That is a process of its own because DVC resolves names
against the working folder of the process, and holds locks in the name of the process.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, Literal

from flows import groups
from provenlm.core.errors import UserError
from provenlm.core.layout import Layout
from provenlm.core.progress import MARK

DVC = [sys.executable, "-m", "dvc", "--wait-for-lock"]  # without waiting, two runs side by side fail now and then
BUSY_SECONDS = 2.0

How = Literal["ran", "cached"]
Listener = Callable[[str], None]

_CACHED = re.compile(r"Stage '.+' (didn't change, skipping|is cached - skipping run)")
_CHATTER = re.compile(
    r"Running stage '|> python |(Updating|Generating) lock file|Use `dvc push`|To track the changes|To enable auto staging"
    r"|\s+(git add|dvc config core\.autostage)|Data and pipelines are up to date"
    r"|(.+: line \d+:\s+\d+ )?(Terminated|Killed)(\s|$)"  # what some shells say of a command that a signal ended
)
_FAILED = re.compile(r"ERROR: failed to reproduce '[^']*': ")
_BUSY = re.compile(r"is busy|Unable to acquire lock")
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")


@dataclass(frozen=True)
class Step:
    """One stage of a plan, `stage` being its DVC address (`train@docs_moe`), and the stages of the plan that it reads from."""

    stage: str
    needs: tuple[str, ...]
    changed: bool

    @property
    def kind(self) -> str:
        return self.stage.partition("@")[0]

    @property
    def subject(self) -> str:
        return self.stage.partition("@")[2]


class StageError(Exception):
    """A stage that did not get done; the message is one line: stage, reason, log."""


def plan(targets: Sequence[str], root: Path) -> list[Step]:
    """The stages that `targets` rest on, in DVC's order. UserError in DVC's words if dvc.yaml or params.yaml cannot be resolved."""
    command = [sys.executable, "-m", "flows.pipeline", *targets]
    with groups.running(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode:
        raise UserError(f"dvc.yaml: {' '.join(err.strip().splitlines()[-1:]) or 'DVC could not read it'}")
    return [Step(row["stage"], tuple(row["needs"]), row["changed"]) for row in json.loads(out)]


def repro(step: Step, root: Path, listen: Listener) -> How:
    """Let DVC reproduce one stage, telling `listen` each line that the stage says. StageError names stage, reason and log.

    Two runs of one subject wait for each other, and one training runs at a time. Whatever exception leaves this (an interrupt, a
    cancellation), the stage was asked to stop and has had its time for a checkpoint.
    """
    layout = Layout(root)
    with ExitStack() as stack:
        for lock in (step.subject, "train") if step.kind == "train" else (step.subject,):
            stack.enter_context(alone(layout.lock(lock), lambda: listen("waiting for another run of the same kind")))
        waiting = False
        while True:
            spoken = _Spoken(listen)
            with _log(layout.log(step.stage)) as log:
                code = _run([*DVC, "repro", "--single-item", step.stage], root, spoken, log)
            if code == 0:
                return "cached" if spoken.cached else "ran"
            reason = spoken.reason().removeprefix(f"{step.stage}: ")
            if not _BUSY.search(reason):
                raise StageError(f"{step.stage}: {reason}; log: {layout.log(step.stage).relative_to(root)}")
            if not waiting:
                listen(f"waiting for another DVC: {reason}")
            waiting = True
            time.sleep(BUSY_SECONDS)


@contextmanager
def alone(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`; `wait` is called once if another process has it. The kernel frees it however we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
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
    cached: bool = False

    def hear(self, line: str) -> None:
        if self.refusal or _FAILED.match(line):
            self.refusal = f"{self.refusal} {_FAILED.sub('', line).strip()}".lstrip()
        elif _CACHED.match(line):
            self.cached = True
        elif not _CHATTER.match(line):
            self.last = self.last if line.startswith(MARK) else line
            self.listen(line)

    def reason(self) -> str:
        """Why it failed, in one line: the last that the stage said if it was the stage that failed, else what DVC said."""
        exited = _EXITED.search(self.refusal)
        if exited and exited[1] in ("-9", "137"):
            return "killed by signal 9; was there enough memory?"
        return self.last if self.last and (exited or not self.refusal) else self.refusal or "DVC ended without a word"


def _run(command: list[str], root: Path, spoken: _Spoken, log: IO[str]) -> int:
    """Run `command` to its exit status. What a stage says while it is being stopped is heard too, but for a stack trace."""

    def hear(lines: Iterable[str]) -> None:
        for line in filter(None, (line.rstrip() for line in lines)):
            log.write(line + "\n")
            spoken.hear(line)

    # `python` in a stage's command must be this one, and its lines must come as they are said
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    process = None
    try:
        with groups.running(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            hear(process.stdout)
            return process.wait()
    except BaseException:
        if process is not None and process.stdout is not None:
            hear(takewhile(lambda line: not line.startswith("Traceback"), process.stdout))
        raise


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
