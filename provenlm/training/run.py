"""Steps in, checkpoints and lines of progress out, until the last step or until somebody asks to end."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.progress import Progress, say
from provenlm.training import sample_generator
from provenlm.training.callbacks.early_stopping import Patience
from provenlm.training.callbacks.history import History
from provenlm.training.callbacks.nonfinite import Finite
from provenlm.training.callbacks.spike_guard import Stability
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint, Described
from provenlm.training.checkpoints.manager import Store
from provenlm.training.config import Settings
from provenlm.training.distributed.process_group import ALONE, Crew
from provenlm.training.sample_generator import Writer, Written
from provenlm.training.step import Monitor, Step


@dataclass(frozen=True)
class Session:
    """A run with all that it leaves on disk. `begun`: the steps after which its processes began; `judge`: see Objective."""

    store: Store
    described: Described
    settings: Settings
    judge: str
    state: Checkpoint | None  # what an earlier process left
    history: History
    begun: Sequence[int]
    written: list[Written]  # grows with the checkpoints
    crew: Crew

    @property
    def extra(self) -> dict[str, bytes]:
        """What lies beside the tensors of a checkpoint."""
        runs = json.dumps(self.begun).encode()
        beside = {"net.json": self.described.to_json(), "history.parquet": self.history.to_parquet(), "runs.json": runs}
        return beside | ({"samples.json": sample_generator.to_json(self.written)} if self.written else {})

    def follow(
        self, steps: Iterator[Step], bar: Progress, asked: Callable[[], bool], look: Callable[[], str], writer: Writer | None
    ) -> Step | None:
        """Take steps to the last and give that, saving when it is time; None if any process is `asked` to end before, with all saved.

        `look` is called after each step, when its row is in the history; its words stand beside the bar. `writer` writes a sample
        whenever it is time to save, and after the last step.
        """
        bar.advance(self.begun[-1])
        try:
            for step in self.history.following(steps):
                self._show(step, bar, look())
                if step.stop:
                    self._write(step, writer)
                    return step
                if step.back:
                    continue  # its state is one that lies on disk
                ending, due = self.crew.any(asked()), self.crew.any(self._due(step))
                if ending or due:
                    self._save(step, writer if due else None)  # a run that was interrupted shows no more than one that was not
                if ending:
                    say(f"asked to end: saved after step {step.number}; the next run goes on from there")
                    return None
        finally:
            self.store.close()
        raise AssertionError("a training ends with a step that says why")

    def _write(self, step: Step, writer: Writer | None) -> None:
        """What was written at steps that going back undid is forgotten."""
        if writer is not None:
            with step.judged():
                self.written[:] = [*(each for each in self.written if each.step < step.number), *writer.write(step.number)]

    def _save(self, step: Step, writer: Writer | None) -> None:
        self._write(step, writer)
        self.store.save(step.snapshot(), self.extra, (step.held_out or {}).get(self.judge))

    def _due(self, step: Step) -> bool:
        return step.number % self.settings.checkpoints.every == 0 or (self.settings.checkpoints.best and self._is_best(step))

    def _is_best(self, step: Step) -> bool:
        held = [value for _, value in self.history.column(f"held_out.{self.judge}")]
        return step.held_out is not None and step.held_out[self.judge] <= min(held)

    def _show(self, step: Step, bar: Progress, words: str) -> None:
        bar.advance(step.number - bar.done, words)
        for what, said in (
            ("overflowed", step.overflow),
            ("skipped", step.skipped),
            ("slows down", step.slowed),
            ("went back", step.back),
            ("stopped", step.stop),
        ):
            if said:
                say(f"step {step.number} {what}: {said}")
        if step.number == 1 and self.settings.micro_batch == "auto":
            say(f"memory holds {step.micro_batch} rows at a time, of {self.settings.batch} a step")
            return
        before = self.history.rows[-2]["micro_batch"] if len(self.history.rows) > 1 else self.settings.most_rows
        if step.micro_batch != before:
            say(
                f"step {step.number} ran out of memory with {before} rows at a time: {step.micro_batch} from here on, the same batch"
            )

    def deliver(self, folder: Path, last: Step) -> Checkpoint:
        """Leave in `folder` the last state, which is given back, the checkpoints that are to be kept, and, if it stopped over a step, a
        dump of that."""
        state = last.snapshot()
        checkpoint.write(folder, state, self.extra)
        for kept in self.store.lasting():
            shutil.copytree(kept, folder / "checkpoints" / kept.name)
        if last.skipped:
            checkpoint.write(folder / "dump", last.evidence(), {"net.json": self.described.to_json()})
            say(f"the step it stopped over is in {folder.name}/dump; provenlm.training.checkpoints.replay.replay computes it again")
        return state


def accompany(steps: Iterator[Step], asked: Callable[[], bool], crew: Crew) -> bool:
    """What the other processes do while the first has a session: take the same steps, and give their part of what it saves.

    False if any was asked to end before the last.
    """
    for step in steps:
        if step.stop:
            step.snapshot()
            if step.skipped:
                step.evidence()
            return True
        if step.back:
            continue
        ending, due = crew.any(asked()), crew.any(False)
        if ending or due:
            step.snapshot()
        if ending:
            return False
    raise AssertionError("a training ends with a step that says why")


def session(root: Path, described: Described, settings: Settings, judge: str, crew: Crew = ALONE) -> Session:
    """A session with checkpoints below `root`; it goes on from the newest whole one there, or begins. For the first process alone."""
    store = Store(root, settings.checkpoints, say)
    newest = store.newest()
    if newest is None:
        return Session(store, described, settings, judge, None, History(), [0], [], crew)
    state = checkpoint.read(newest)
    step = state.facts["step"]
    say(f"going on after step {step}")
    if (before := len(state.facts["random"])) != crew.size:
        say(
            f"saved by {before} of train.parallel.processes, now {crew.size}: the same but for the order of sums and dropout's draws"
        )
    history = History.from_parquet((newest / "history.parquet").read_bytes())
    begun = [*json.loads((newest / "runs.json").read_text(encoding="utf-8")), step]
    samples = newest / "samples.json"
    written = sample_generator.from_json(samples.read_bytes()) if samples.exists() else []
    return Session(store, described, settings, judge, state, history, begun, written, crew)


def only(folder: Path, key: str) -> Path:
    """Where below `folder` the checkpoints of the training named `key` lie; those of any other are removed."""
    root = folder / key[:32]
    for other in folder.glob("*"):
        if other != root:
            shutil.rmtree(other)
    return root


def monitors_for(settings: Settings, judge: str) -> list[Monitor]:
    """Those that `settings` ask for; `judge` is the term of the held-out loss that some of them look at."""
    made: list[Monitor] = [Finite() if settings.stability is None else Stability(settings.stability)]
    return made + [Patience(wanted, judge) for wanted in (settings.plateau, settings.early_stop) if wanted is not None]
