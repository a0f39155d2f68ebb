"""Run a training to its end: save checkpoints, log progress, generate samples."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.progress import ProgressReporter, log_line
from provenlm.training import sample_generator
from provenlm.training.base_model_files import TRAINING_RECORDS_FILE
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint, ModelMetadata
from provenlm.training.checkpoints.manager import CheckpointManager
from provenlm.training.config import TrainConfig
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext
from provenlm.training.sample_generator import SampleGenerator, TrainingSample
from provenlm.training.step import StepResult


@dataclass(frozen=True)
class TrainingRun:
    """Hold a run and all that it leaves on disk.

    `start_steps`: the steps after which its processes started (0 for the first); `eval_term`: see `Objective`.
    """

    checkpoint_manager: CheckpointManager
    model_metadata: ModelMetadata
    config: TrainConfig
    eval_term: str
    resume_checkpoint: Checkpoint | None  # saved by an earlier process
    history: StepHistory
    start_steps: Sequence[int]
    samples: list[TrainingSample]  # grows with the checkpoints
    dist: DistributedContext

    @property
    def extra_files(self) -> dict[str, bytes]:
        """Return the files that a checkpoint holds beside its tensors."""
        start_steps_json = json.dumps(self.start_steps).encode()
        files = {
            checkpoint.METADATA_FILE: self.model_metadata.to_json(),
            "history.parquet": self.history.to_parquet(),
            "runs.json": start_steps_json,
        }
        return files | ({"samples.json": sample_generator.samples_to_json(self.samples)} if self.samples else {})

    def run(
        self,
        steps: Iterator[StepResult],
        bar: ProgressReporter,
        stop_requested: Callable[[], bool],
        log_step: Callable[[], str],
        generator: SampleGenerator | None,
    ) -> StepResult | None:
        """Take all steps, save checkpoints when due, and return the last step.

        Returns None, after saving, if `stop_requested` is true in any process. `log_step` is called after each step, when its row is in the
        history; its text is shown beside the progress bar. `generator` generates samples whenever a checkpoint is due and after the last step.
        """
        bar.update(self.start_steps[-1])
        try:
            for step in self.history.record_steps(steps):
                self._report(step, bar, log_step())
                if step.stop_reason:
                    self._generate_samples(step, generator)
                    return step
                if step.rollback_reason:
                    continue  # the restored state is already on disk
                stopping, save_due = self.dist.any_rank(stop_requested()), self.dist.any_rank(self._is_save_step(step))
                if stopping or save_due:
                    # No samples on an interrupt: an interrupted run reports the same samples as an uninterrupted one.
                    self._save_checkpoint(step, generator if save_due else None)
                if stopping:
                    log_line(f"interrupted: saved a checkpoint after step {step.number}; the next run resumes from it")
                    return None
        finally:
            self.checkpoint_manager.close()
        raise AssertionError("the last step has a stop_reason")

    def _generate_samples(self, step: StepResult, generator: SampleGenerator | None) -> None:
        """Generate samples and drop those of steps that a rollback undid."""
        if generator is not None:
            with step.eval_weights():
                self.samples[:] = [
                    *(sample for sample in self.samples if sample.step < step.number),
                    *generator.generate(step.number),
                ]

    def _save_checkpoint(self, step: StepResult, generator: SampleGenerator | None) -> None:
        """Generate samples and save a checkpoint."""
        self._generate_samples(step, generator)
        self.checkpoint_manager.save(step.snapshot(), self.extra_files, (step.val_losses or {}).get(self.eval_term))

    def _is_save_step(self, step: StepResult) -> bool:
        """Return whether a checkpoint is due after `step`."""
        return step.number % self.config.checkpoints.save_interval == 0 or (
            self.config.checkpoints.keep_best and self._is_best(step)
        )

    def _is_best(self, step: StepResult) -> bool:
        """Return whether `step` has the smallest validation loss so far."""
        val_losses = [value for _, value in self.history.series(f"val.{self.eval_term}")]
        return step.val_losses is not None and step.val_losses[self.eval_term] <= min(val_losses)

    def _report(self, step: StepResult, bar: ProgressReporter, status: str) -> None:
        """Update the progress bar and log what a step reports."""
        bar.update(step.number - bar.num_done, status)
        for event, reason in (
            ("overflowed", step.overflow_reason),
            ("skipped", step.skip_reason),
            ("lowered the learning rates", step.lr_drop_reason),
            ("rolled back", step.rollback_reason),
            ("stopped", step.stop_reason),
        ):
            if reason:
                log_line(f"step {step.number} {event}: {reason}")
        if step.number == 1 and self.config.micro_batch_size == "auto":
            log_line(f"micro_batch_size: {step.micro_batch_size} of {self.config.global_batch_size} sequences fit into memory")
            return
        rows = self.history.rows
        previous_size = rows[-2]["micro_batch_size"] if len(rows) > 1 else self.config.max_micro_batch_size
        if step.micro_batch_size != previous_size:
            log_line(
                f"step {step.number}: out of memory with micro_batch_size {previous_size}; continuing with {step.micro_batch_size} "
                "(the global batch is unchanged)"
            )

    def finalize(self, folder: Path, last_step: StepResult, training_records: bytes) -> Checkpoint:
        """Write the final model and the ids of its training records to `folder`.

        Returns the checkpoint of the model. Also copies the retained checkpoints and, if training stopped at a skipped step, writes a debug dump of that step.
        """
        state = last_step.snapshot()
        checkpoint.save_checkpoint(folder, state, self.extra_files | {TRAINING_RECORDS_FILE: training_records})
        for checkpoint_dir in self.checkpoint_manager.retained_dirs():
            shutil.copytree(checkpoint_dir, folder / "checkpoints" / checkpoint_dir.name)
        if last_step.skip_reason:
            checkpoint.save_checkpoint(
                folder / "dump", last_step.debug_dump(), {checkpoint.METADATA_FILE: self.model_metadata.to_json()}
            )
            log_line(f"wrote the failed step to {folder.name}/dump; provenlm.training.checkpoints.replay.replay_step repeats it")
        return state


def run_worker_rank(steps: Iterator[StepResult], stop_requested: Callable[[], bool], dist: DistributedContext) -> bool:
    """Take the same steps as the main process and contribute to what it saves.

    Returns False if any process is asked to stop before the last step.
    """
    for step in steps:
        if step.stop_reason:
            step.snapshot()
            if step.skip_reason:
                step.debug_dump()
            return True
        if step.rollback_reason:
            continue
        stopping, save_due = dist.any_rank(stop_requested()), dist.any_rank(False)
        if stopping or save_due:
            step.snapshot()
        if stopping:
            return False
    raise AssertionError("the last step has a stop_reason")


def open_run(
    root: Path, model_metadata: ModelMetadata, config: TrainConfig, eval_term: str, dist: DistributedContext = SINGLE_PROCESS
) -> TrainingRun:
    """Open a run with checkpoints below `root`; resume from the latest intact one.

    For the main process only.
    """
    manager = CheckpointManager(root, config.checkpoints, log_line)
    latest = manager.latest()
    if latest is None:
        return TrainingRun(manager, model_metadata, config, eval_term, None, StepHistory(), [0], [], dist)
    state = checkpoint.load_checkpoint(latest)
    step = state.metadata["step"]
    log_line(f"resuming after step {step}")
    if (saved_world_size := len(state.metadata["rng"])) != dist.world_size:
        log_line(
            f"the checkpoint was saved with distributed.world_size {saved_world_size}, now it is {dist.world_size}: "
            "the order of sums and the dropout masks differ"
        )
    history = StepHistory.from_parquet((latest / "history.parquet").read_bytes())
    start_steps = [*json.loads((latest / "runs.json").read_text(encoding="utf-8")), step]
    samples_path = latest / "samples.json"
    generated = sample_generator.samples_from_json(samples_path.read_bytes()) if samples_path.exists() else []
    return TrainingRun(manager, model_metadata, config, eval_term, state, history, start_steps, generated, dist)


def remove_stale_runs(folder: Path, key: str) -> Path:
    """Return the checkpoint folder of the run `key`; delete those of other runs."""
    root = folder / key[:32]
    for path in folder.glob("*"):
        if path != root:
            shutil.rmtree(path)
    return root
