"""The checkpoints of one run below a folder: states in, written behind the run's back; the state to go on from or back to out."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import Checkpoints


class Store:
    """Saves one state at a time in a thread of its own and lets go of those that `keep` does not want.

    A state is copied before `save` returns, so the run may move on at once; it is published, whole, by one rename, and only then
    are older ones removed. `say` is told of damaged ones that are passed over.
    """

    def __init__(self, root: Path, keep: Checkpoints, say: Callable[[str], None]) -> None:
        self.root, self.keep, self.say = root, keep, say
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        for half in root.glob(".tmp-*"):  # of a process that was killed
            shutil.rmtree(half)

    def save(self, state: Checkpoint, extra: Mapping[str, bytes], score: float | None) -> None:
        """Copy the state now and write it later. `score` is the held-out loss at this step, where it was measured.

        OSError if writing the one before failed.
        """
        self.wait()
        copy = copied(replace(state, facts={**state.facts, "score": score}))
        self._writing = self._thread.submit(self._publish, copy, dict(extra))

    def _publish(self, state: Checkpoint, extra: Mapping[str, bytes]) -> None:
        checkpoint.write(step_folder(self.root, state.facts["step"]), state, extra)
        for step in surplus(scores(self.root), self.keep):
            shutil.rmtree(step_folder(self.root, step))

    def wait(self) -> None:
        """Until all that was saved is on disk. OSError if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.shutdown()
        self.wait()

    def newest(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        return self._whole(sorted(steps(self.root), reverse=True))

    def recall(self) -> Checkpoint | None:
        """The newest whole one among those that are saved at regular intervals: where a run goes back to, however often it was
        stopped and resumed in between. Newer ones belong to the line of steps that is given up, and are removed."""
        self.wait()
        found = self._whole(sorted((step for step in steps(self.root) if step % self.keep.every == 0), reverse=True))
        if found is None:
            return None
        state = checkpoint.read(found)
        for step in steps(self.root):
            if step > state.facts["step"]:
                shutil.rmtree(step_folder(self.root, step))
        return state

    def _whole(self, newest_first: list[int]) -> Path | None:
        for step in newest_first:
            folder = step_folder(self.root, step)
            wrong = checkpoint.damage(folder)
            if wrong is None:
                return folder
            self.say(f"checkpoint {folder.name} is damaged ({wrong}); looking for an older one")
        return None

    def lasting(self) -> list[Path]:
        """Those that are kept beyond the end of training: the spaced ones and the best."""
        found = scores(self.root)
        kept = set(_spaced(found, self.keep)) | set(_best(found, self.keep))
        return [step_folder(self.root, step) for step in sorted(kept)]


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08}"


def steps(root: Path) -> list[int]:
    """The steps that have a folder below `root`, in order."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.glob("step-*"))


def scores(root: Path) -> dict[int, float | None]:
    """The held-out loss of every checkpoint below `root`, by step; None where it was not measured or cannot be read."""
    return {step: _score(step_folder(root, step)) for step in steps(root)}


def _score(folder: Path) -> float | None:
    try:
        score: float | None = json.loads((folder / "state.json").read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged one is found out when it is read
    return score


def surplus(found: Mapping[int, float | None], keep: Checkpoints) -> list[int]:
    """The steps that no rule keeps. The newest is always kept; one between the intervals goes as soon as it is not the newest."""
    regular = [step for step in sorted(found) if step % keep.every == 0]
    kept = {max(found), *regular[-keep.last :], *_spaced(found, keep), *_best(found, keep)}
    return [step for step in sorted(found) if step not in kept]


def _spaced(found: Mapping[int, float | None], keep: Checkpoints) -> list[int]:
    return [step for step in found if keep.spaced is not None and step % keep.spaced == 0]


def _best(found: Mapping[int, float | None], keep: Checkpoints) -> list[int]:
    """The step with the smallest score, the earliest of equals, where it is asked for."""
    scored = [(score, step) for step, score in found.items() if score is not None]
    return [min(scored)[1]] if keep.best and scored else []


def copied(state: Checkpoint) -> Checkpoint:
    """The same in memory of its own, on the CPU: what the net does next cannot reach it."""
    tensors = {
        file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for file, named in state.tensors.items()
    }
    return Checkpoint(tensors, json.loads(json.dumps(state.facts)))
