"""Save a run's checkpoints in the background and delete those not retained."""

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
    """Save one checkpoint at a time in a thread and apply the retention rules.

    `save` copies the tensors before it returns, so that training can continue. A checkpoint is published with one rename; older ones are
    deleted only after that. `log` receives a message about each damaged checkpoint that is passed over.
    """

    def __init__(self, root: Path, config: CheckpointConfig, log: Callable[[str], None]) -> None:
        self.root, self.config, self.log = root, config, log
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        for leftover in root.glob(".tmp-*"):  # from a process that was killed
            shutil.rmtree(leftover)

    def save(self, state: Checkpoint, extra_files: Mapping[str, bytes], val_loss: float | None) -> None:
        """Copy the checkpoint now and write it in the background.

        `val_loss` is the validation loss at this step, if it was computed. Raises OSError if writing the previous checkpoint failed.
        """
        self.wait()
        copy = cpu_copy(replace(state, metadata={**state.metadata, "val_loss": val_loss}))
        self._writing = self._thread.submit(self._publish, copy, dict(extra_files))

    def _publish(self, state: Checkpoint, extra_files: Mapping[str, bytes]) -> None:
        """Write a checkpoint, then delete those that no rule retains."""
        checkpoint.save_checkpoint(step_dir(self.root, state.metadata["step"]), state, extra_files)
        for step in steps_to_delete(saved_val_losses(self.root), self.config):
            shutil.rmtree(step_dir(self.root, step))

    def wait(self) -> None:
        """Wait until all checkpoints are on disk. Raises OSError if writing failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.shutdown()
        self.wait()

    def latest(self) -> Path | None:
        """Return the latest intact checkpoint, or None."""
        return self._first_intact(sorted(list_steps(self.root), reverse=True))

    def rollback_target(self) -> Checkpoint | None:
        """Load the latest intact checkpoint at a multiple of `save_interval`.

        These steps do not depend on how often the run was interrupted. Later checkpoints are deleted, because a rollback undoes their steps.
        """
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
        """Return the folder of the first intact checkpoint, or None."""
        for step in newest_first:
            folder = step_dir(self.root, step)
            problem = checkpoint.find_corruption(folder)
            if problem is None:
                return folder
            self.log(f"checkpoint {folder.name} is damaged ({problem}); trying an older one")
        return None

    def retained_dirs(self) -> list[Path]:
        """Return the checkpoints that stay after training: periodic ones and the best."""
        val_losses = saved_val_losses(self.root)
        retained = set(_periodic_steps(val_losses, self.config)) | set(_best_steps(val_losses, self.config))
        return [step_dir(self.root, step) for step in sorted(retained)]


def step_dir(root: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return root / f"step-{step:08}"


def list_steps(root: Path) -> list[int]:
    """List the steps that have a checkpoint below `root`, in order."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.glob("step-*"))


def saved_val_losses(root: Path) -> dict[int, float | None]:
    """Return the validation loss of every checkpoint below `root`, by step.

    None where it was not computed or cannot be read.
    """
    return {step: _saved_val_loss(step_dir(root, step)) for step in list_steps(root)}


def _saved_val_loss(folder: Path) -> float | None:
    """Read the validation loss of one checkpoint."""
    try:
        val_loss: float | None = json.loads((folder / "state.json").read_text(encoding="utf-8"))["val_loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damage is reported when the checkpoint is loaded
    return val_loss


def steps_to_delete(val_losses: Mapping[int, float | None], config: CheckpointConfig) -> list[int]:
    """List the steps whose checkpoints no retention rule keeps.

    The latest checkpoint is always kept.
    """
    regular_steps = [step for step in sorted(val_losses) if step % config.save_interval == 0]
    retained = {
        max(val_losses),
        *regular_steps[-config.keep_latest_k :],
        *_periodic_steps(val_losses, config),
        *_best_steps(val_losses, config),
    }
    return [step for step in sorted(val_losses) if step not in retained]


def _periodic_steps(val_losses: Mapping[int, float | None], config: CheckpointConfig) -> list[int]:
    """List the steps at multiples of `keep_every_n_steps`."""
    return [step for step in val_losses if config.keep_every_n_steps is not None and step % config.keep_every_n_steps == 0]


def _best_steps(val_losses: Mapping[int, float | None], config: CheckpointConfig) -> list[int]:
    """List the step with the smallest validation loss, if `keep_best` is set.

    The earliest of equal ones is kept.
    """
    candidates = [(val_loss, step) for step, val_loss in val_losses.items() if val_loss is not None]
    return [min(candidates)[1]] if config.keep_best and candidates else []


def cpu_copy(state: Checkpoint) -> Checkpoint:
    """Copy a checkpoint to the CPU, independent of the training state."""
    state_dicts = {
        file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in state_dict.items()}
        for file, state_dict in state.state_dicts.items()
    }
    return Checkpoint(state_dicts, json.loads(json.dumps(state.metadata)))
