"""The checkpoints of one run below a folder: states in, written behind the run's back; the state to go on from or back to out."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import CheckpointConfig


class CheckpointManager:
    """Saves one state at a time in a thread of its own and lets go of those that `keep` does not want.

    A state is copied before `save` returns, so the run may move on at once; it is published, whole, by one rename, and only then
    are older ones removed. `say` is told of damaged ones that are passed over.
    """

    def __init__(self, root: Path, config: CheckpointConfig, log: Callable[[str], None]) -> None:
        self.root, self.config, self.log = root, config, log
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        for leftover in root.glob(".tmp-*"):  # of a process that was killed
            shutil.rmtree(leftover)

    def save(self, state: Checkpoint, extra_files: Mapping[str, bytes], val_loss: float | None) -> None:
        """Copy the state now and write it later. `score` is the held-out loss at this step, where it was measured.

        OSError if writing the one before failed.
        """
        self.wait()
        copy = cpu_copy(replace(state, facts={**state.metadata, "score": val_loss}))
        self._writing = self._thread.submit(self._publish, copy, dict(extra_files))

    def _publish(self, state: Checkpoint, extra_files: Mapping[str, bytes]) -> None:
        checkpoint.save_checkpoint(step_dir(self.root, state.metadata["step"]), state, extra_files)
        for step in steps_to_delete(saved_val_losses(self.root), self.config):
            shutil.rmtree(step_dir(self.root, step))

    def wait(self) -> None:
        """Until all that was saved is on disk. OSError if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.shutdown()
        self.wait()

    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        return self._first_intact(sorted(list_steps(self.root), reverse=True))

    def rollback_target(self) -> Checkpoint | None:
        """The newest whole one among those that are saved at regular intervals: where a run goes back to, however often it was
        stopped and resumed in between. Newer ones belong to the line of steps that is given up, and are removed."""
        self.wait()
        path = self._first_intact(
            sorted((step for step in list_steps(self.root) if step % self.config.save_interval == 0), reverse=True)
        )
        if path is None:
            return None
        state = checkpoint.load_checkpoint(path)
        for step in list_steps(self.root):
            if step > state.metadata["step"]:
                shutil.rmtree(step_dir(self.root, step))
        return state

    def _first_intact(self, newest_first: list[int]) -> Path | None:
        for step in newest_first:
            folder = step_dir(self.root, step)
            problem = checkpoint.find_corruption(folder)
            if problem is None:
                return folder
            self.log(f"checkpoint {folder.name} is damaged ({problem}); looking for an older one")
        return None

    def retained_dirs(self) -> list[Path]:
        """Those that are kept beyond the end of training: the spaced ones and the best."""
        val_losses = saved_val_losses(self.root)
        retained = set(_periodic_steps(val_losses, self.config)) | set(_best_steps(val_losses, self.config))
        return [step_dir(self.root, step) for step in sorted(retained)]


def step_dir(root: Path, step: int) -> Path:
    return root / f"step-{step:08}"


def list_steps(root: Path) -> list[int]:
    """The steps that have a folder below `root`, in order."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.glob("step-*"))


def saved_val_losses(root: Path) -> dict[int, float | None]:
    """The held-out loss of every checkpoint below `root`, by step; None where it was not measured or cannot be read."""
    return {step: _saved_val_loss(step_dir(root, step)) for step in list_steps(root)}


def _saved_val_loss(folder: Path) -> float | None:
    try:
        val_loss: float | None = json.loads((folder / "state.json").read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a damaged one is found out when it is read
    return val_loss


def steps_to_delete(val_losses: Mapping[int, float | None], config: CheckpointConfig) -> list[int]:
    """The steps that no rule keeps. The newest is always kept; one between the intervals goes as soon as it is not the newest."""
    regular_steps = [step for step in sorted(val_losses) if step % config.save_interval == 0]
    retained = {
        max(val_losses),
        *regular_steps[-config.keep_latest_k :],
        *_periodic_steps(val_losses, config),
        *_best_steps(val_losses, config),
    }
    return [step for step in sorted(val_losses) if step not in retained]


def _periodic_steps(val_losses: Mapping[int, float | None], config: CheckpointConfig) -> list[int]:
    return [step for step in val_losses if config.keep_every_n_steps is not None and step % config.keep_every_n_steps == 0]


def _best_steps(val_losses: Mapping[int, float | None], config: CheckpointConfig) -> list[int]:
    """The step with the smallest score, the earliest of equals, where it is asked for."""
    candidates = [(val_loss, step) for step, val_loss in val_losses.items() if val_loss is not None]
    return [min(candidates)[1]] if config.keep_best and candidates else []


def cpu_copy(state: Checkpoint) -> Checkpoint:
    """The same in memory of its own, on the CPU: what the net does next cannot reach it."""
    state_dicts = {
        file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in state_dict.items()}
        for file, state_dict in state.state_dicts.items()
    }
    return Checkpoint(state_dicts, json.loads(json.dumps(state.metadata)))
