"""Steps in, checkpoints and lines of progress out, until the last step or until somebody asks to end."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.progress import ProgressReporter, log_line
from provenlm.training import sample_generator
from provenlm.training.callbacks.early_stopping import PatienceCallback
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.callbacks.nonfinite import NonFiniteGuard
from provenlm.training.callbacks.spike_guard import SpikeGuard
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Checkpoint, ModelMetadata
from provenlm.training.checkpoints.manager import CheckpointManager
from provenlm.training.config import TrainConfig
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext
from provenlm.training.sample_generator import SampleGenerator, TrainingSample
from provenlm.training.step import Callback, StepResult


@dataclass(frozen=True)
class TrainingRun:
    """A run with all that it leaves on disk. `begun`: the steps after which its processes began; `judge`: see Objective."""

    checkpoint_manager: CheckpointManager
    model_metadata: ModelMetadata
    config: TrainConfig
    eval_term: str
    resume_checkpoint: Checkpoint | None  # what an earlier process left
    history: StepHistory
    start_steps: Sequence[int]
    samples: list[TrainingSample]  # grows with the checkpoints
    dist: DistributedContext

    @property
    def extra_files(self) -> dict[str, bytes]:
        """What lies beside the tensors of a checkpoint."""
        start_steps_json = json.dumps(self.start_steps).encode()
        files = {
            "net.json": self.model_metadata.to_json(),
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
        """Take steps to the last and give that, saving when it is time; None if any process is `asked` to end before, with all saved.

        `look` is called after each step, when its row is in the history; its words stand beside the bar. `writer` writes a sample
        whenever it is time to save, and after the last step.
        """
        bar.update(self.start_steps[-1])
        try:
            for step in self.history.record_steps(steps):
                self._report(step, bar, log_step())
                if step.stop_reason:
                    self._generate_samples(step, generator)
                    return step
                if step.rollback_reason:
                    continue  # its state is one that lies on disk
                stopping, save_due = self.dist.any_rank(stop_requested()), self.dist.any_rank(self._is_save_step(step))
                if stopping or save_due:
                    self._save_checkpoint(
                        step, generator if save_due else None
                    )  # a run that was interrupted shows no more than one that was not
                if stopping:
                    log_line(f"asked to end: saved after step {step.number}; the next run goes on from there")
                    return None
        finally:
            self.checkpoint_manager.close()
        raise AssertionError("a training ends with a step that says why")

    def _generate_samples(self, step: StepResult, generator: SampleGenerator | None) -> None:
        """What was written at steps that going back undid is forgotten."""
        if generator is not None:
            with step.eval_weights():
                self.samples[:] = [
                    *(sample for sample in self.samples if sample.step < step.number),
                    *generator.generate(step.number),
                ]

    def _save_checkpoint(self, step: StepResult, generator: SampleGenerator | None) -> None:
        self._generate_samples(step, generator)
        self.checkpoint_manager.save(step.snapshot(), self.extra_files, (step.val_losses or {}).get(self.eval_term))

    def _is_save_step(self, step: StepResult) -> bool:
        return step.number % self.config.checkpoints.save_interval == 0 or (
            self.config.checkpoints.keep_best and self._is_best(step)
        )

    def _is_best(self, step: StepResult) -> bool:
        val_losses = [value for _, value in self.history.series(f"held_out.{self.eval_term}")]
        return step.val_losses is not None and step.val_losses[self.eval_term] <= min(val_losses)

    def _report(self, step: StepResult, bar: ProgressReporter, status: str) -> None:
        bar.update(step.number - bar.num_done, status)
        for event, reason in (
            ("overflowed", step.overflow_reason),
            ("skipped", step.skip_reason),
            ("slows down", step.lr_drop_reason),
            ("went back", step.rollback_reason),
            ("stopped", step.stop_reason),
        ):
            if reason:
                log_line(f"step {step.number} {event}: {reason}")
        if step.number == 1 and self.config.micro_batch_size == "auto":
            log_line(f"memory holds {step.micro_batch_size} rows at a time, of {self.config.global_batch_size} a step")
            return
        previous_size = self.history.rows[-2]["micro_batch"] if len(self.history.rows) > 1 else self.config.max_micro_batch_size
        if step.micro_batch_size != previous_size:
            log_line(
                f"step {step.number} ran out of memory with {previous_size} rows at a time: {step.micro_batch_size} from here on, the same batch"
            )

    def finalize(self, folder: Path, last_step: StepResult) -> Checkpoint:
        """Leave in `folder` the last state, which is given back, the checkpoints that are to be kept, and, if it stopped over a step, a
        dump of that."""
        state = last_step.snapshot()
        checkpoint.save_checkpoint(folder, state, self.extra_files)
        for checkpoint_dir in self.checkpoint_manager.retained_dirs():
            shutil.copytree(checkpoint_dir, folder / "checkpoints" / checkpoint_dir.name)
        if last_step.skip_reason:
            checkpoint.save_checkpoint(folder / "dump", last_step.debug_dump(), {"net.json": self.model_metadata.to_json()})
            log_line(
                f"the step it stopped over is in {folder.name}/dump; provenlm.training.checkpoints.replay.replay computes it again"
            )
        return state


def run_worker_rank(steps: Iterator[StepResult], stop_requested: Callable[[], bool], dist: DistributedContext) -> bool:
    """What the other processes do while the first has a session: take the same steps, and give their part of what it saves.

    False if any was asked to end before the last.
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
    raise AssertionError("a training ends with a step that says why")


def open_run(
    root: Path, model_metadata: ModelMetadata, config: TrainConfig, eval_term: str, dist: DistributedContext = SINGLE_PROCESS
) -> TrainingRun:
    """A session with checkpoints below `root`; it goes on from the newest whole one there, or begins. For the first process alone."""
    manager = CheckpointManager(root, config.checkpoints, log_line)
    latest = manager.latest()
    if latest is None:
        return TrainingRun(manager, model_metadata, config, eval_term, None, StepHistory(), [0], [], dist)
    state = checkpoint.load_checkpoint(latest)
    step = state.metadata["step"]
    log_line(f"going on after step {step}")
    if (saved_world_size := len(state.metadata["random"])) != dist.world_size:
        log_line(
            f"saved by {saved_world_size} of train.parallel.processes, now {dist.world_size}: the same but for the order of sums and dropout's draws"
        )
    history = StepHistory.from_parquet((latest / "history.parquet").read_bytes())
    start_steps = [*json.loads((latest / "runs.json").read_text(encoding="utf-8")), step]
    samples_path = latest / "samples.json"
    generated = sample_generator.samples_from_json(samples_path.read_bytes()) if samples_path.exists() else []
    return TrainingRun(manager, model_metadata, config, eval_term, state, history, start_steps, generated, dist)


def remove_stale_runs(folder: Path, key: str) -> Path:
    """Where below `folder` the checkpoints of the training named `key` lie; those of any other are removed."""
    root = folder / key[:32]
    for path in folder.glob("*"):
        if path != root:
            shutil.rmtree(path)
    return root


def build_callbacks(config: TrainConfig, eval_term: str) -> list[Callback]:
    """Those that `settings` ask for; `judge` is the term of the held-out loss that some of them look at."""
    callbacks: list[Callback] = [NonFiniteGuard() if config.spike_guard is None else SpikeGuard(config.spike_guard)]
    return callbacks + [
        PatienceCallback(patience_config, eval_term)
        for patience_config in (config.reduce_lr_on_plateau, config.early_stopping)
        if patience_config is not None
    ]
