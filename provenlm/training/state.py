"""Hold the state of a training run; save it to a checkpoint and restore it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core import hashing, rng
from provenlm.core.errors import CheckpointError
from provenlm.models.common.objective import Batch, Objective
from provenlm.training import rng_state
from provenlm.training.checkpoints.batch_dump import dump_batch
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config import TrainConfig
from provenlm.training.distributed.fsdp import full_tensor, shard_like
from provenlm.training.distributed.process_group import DistributedContext
from provenlm.training.oom_backoff import OomBackoff
from provenlm.training.optim import factory as optim
from provenlm.training.optim import lr_scheduler
from provenlm.training.optim.ema import EMA
from provenlm.training.optim.grad_scaler import GradScaler
from provenlm.training.step import Callback, Rollback


@dataclass
class TrainerState:
    """Hold the model, optimizers, callbacks and progress of a run.

    `lr_backoffs`: factors on the learning rates, each with the step at which it ends.
    """

    model: nn.Module
    objectives: Sequence[Objective]
    optimizers: list[list[torch.optim.Optimizer]]
    callbacks: Sequence[Callback]
    config: TrainConfig
    dist: DistributedContext
    step: int = 0
    samples_seen: int = 0  # sequences drawn, or passed over by a rollback
    lr_backoffs: list[tuple[float, int]] = field(default_factory=list)
    oom_backoff: OomBackoff = field(init=False)
    eval_oom_backoff: OomBackoff = field(init=False)
    grad_scaler: GradScaler = field(init=False)
    ema: EMA | None = field(init=False)

    def __post_init__(self) -> None:
        self.grad_scaler = GradScaler(self.config.precision)
        self.ema = None if self.config.ema_decay is None else EMA(self.model, self.config.ema_decay)
        self.oom_backoff = OomBackoff(self.config.max_micro_batch_size)
        self.eval_oom_backoff = OomBackoff(self.config.max_micro_batch_size)

    @property
    def param_names(self) -> dict[nn.Parameter, str]:
        """Map each parameter to its name in the model."""
        return {parameter: name for name, parameter in self.model.named_parameters()}

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    def lr_scale(self) -> float:
        """Return the factor on the peak learning rates for the next step.

        It is the schedule's factor times the back-offs after rollbacks and plateaus.
        """
        scale = lr_scheduler.lr_scale(self.config.lr_schedule, self.step, self.config.total_steps)
        for factor, until_step in self.lr_backoffs:
            scale *= factor if self.step < until_step else 1.0
        return scale

    def eval_weights(self) -> AbstractContextManager[None]:
        """Give the model its evaluation weights (EMA or last) within a context."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def snapshot(self) -> Checkpoint:
        """Return a checkpoint of everything that determines the next steps.

        `model` holds the published weights; with EMA, `training_weights` holds the weights that training continues from. Tensors are not
        copied: copy or write them before the next step. Every process must call this, because sharded tensors are gathered; only the main
        process receives them.
        """
        optimizer_state = {
            f"{objective.name}/{name}": tensor
            for objective, optimizers in zip(self.objectives, self.optimizers, strict=True)
            for name, tensor in optim.optimizer_state(optimizers, self.param_names).items()
        }
        rng_tensors, host_states = self.dist.all_gather(*rng_state.get_rng_state())
        metadata = {
            "step": self.step,
            "samples_seen": self.samples_seen,
            "lr_backoffs": self.lr_backoffs,
            "micro_batch_sizes": [self.oom_backoff.micro_batch_size, self.eval_oom_backoff.micro_batch_size],
            "grad_scaler": [self.grad_scaler.scale, self.grad_scaler.growth_tracker],
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "rng": host_states,
            **_resume_requirements(self.config),
        }
        state_dicts = {"model": self.model.state_dict(), "optimizer": optimizer_state}
        if self.ema is not None:
            state_dicts = {**state_dicts, "model": self.ema.state_dict(), "training_weights": state_dicts["model"]}
        full_state_dicts = {file: _full_tensors(state_dict, self.dist) for file, state_dict in state_dicts.items()}
        return Checkpoint({**full_state_dicts, "rng": rng_tensors}, metadata)

    def debug_dump(self, batch: Batch, saved_rng: tuple[Mapping[str, Tensor], Any], metadata: Mapping[str, Any]) -> Checkpoint:
        """Return what a step's losses and gradients depend on, for `replay_step`.

        That is the weights, the batch and the main process's random state before the step; dropout in other processes is not reproduced.
        """
        rng_tensors, host_state = saved_rng
        batch_tensors, batch_metadata = dump_batch(batch)
        model = _full_tensors(self.model.state_dict(), self.dist)
        return Checkpoint(
            {"model": model, "batch": batch_tensors, "rng": rng_tensors}, {**metadata, "batch": batch_metadata, "rng": host_state}
        )

    def seed_generators(self, *keys: object) -> None:
        """Seed the random generators of this process, differently for each rank."""
        rank_keys = (self.dist.rank,) if self.dist.rank else ()
        rng_state.seed_all(rng.derive_seed(self.config.seed, "steps", *rank_keys, *keys))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint.

        Raises CheckpointError if it was saved with another config or number of threads.
        """
        metadata = checkpoint.metadata
        for key, value in _resume_requirements(self.config).items():
            if metadata[key] != value:
                raise CheckpointError(
                    f"checkpoint: {key} must be {value} as in this run, got {metadata[key]}; delete it to start over"
                )
        current, state_dicts = self.model.state_dict(), checkpoint.state_dicts
        weights = state_dicts.get("training_weights", state_dicts["model"])
        self.model.load_state_dict({name: shard_like(tensor, current[name]) for name, tensor in weights.items()})
        if self.ema is not None:
            self.ema.load_state_dict(state_dicts["model"])
        for objective, optimizers in zip(self.objectives, self.optimizers, strict=True):
            prefix = f"{objective.name}/"
            optimizer_tensors = {k.removeprefix(prefix): v for k, v in state_dicts["optimizer"].items() if k.startswith(prefix)}
            optim.load_optimizer_state(optimizers, self.param_names, optimizer_tensors)
        for callback, state in zip(self.callbacks, metadata["callbacks"], strict=True):
            callback.load_state_dict(state)
        self.step, self.samples_seen = metadata["step"], metadata["samples_seen"]
        self.grad_scaler.scale, self.grad_scaler.growth_tracker = metadata["grad_scaler"]
        self.lr_backoffs = [(factor, until_step) for factor, until_step in metadata["lr_backoffs"]]
        self.oom_backoff, self.eval_oom_backoff = (OomBackoff(size) for size in metadata["micro_batch_sizes"])
        saved_rng = self.dist.local_part(state_dicts["rng"], metadata["rng"])
        if saved_rng is None:
            self.seed_generators(self.step)  # the checkpoint was saved by fewer processes
        else:
            rng_state.set_rng_state(*saved_rng)  # last, because the calls above may draw random numbers

    def rollback(self, checkpoint: Checkpoint, action: Rollback) -> str:
        """Restore `checkpoint` but keep the position in the data; return a summary.

        The learning rates are scaled as `action` asks.
        """
        failed_step, samples_seen, lr_backoffs = self.step, self.samples_seen, self.lr_backoffs
        oom_backoffs = self.oom_backoff, self.eval_oom_backoff
        self.restore(checkpoint)
        self.oom_backoff, self.eval_oom_backoff = oom_backoffs
        num_skipped = samples_seen - self.samples_seen
        self.samples_seen = samples_seen
        self.lr_backoffs = [*lr_backoffs, (action.lr_factor, self.step + action.lr_steps)]
        return (
            f"{action.reason}; rolled back from step {failed_step} to {self.step}, skipped {num_skipped} sequences, "
            f"learning rates × {action.lr_factor:g} for {action.lr_steps} steps"
        )


def _full_tensors(tensors: Mapping[str, Tensor], dist: DistributedContext) -> dict[str, Tensor]:
    """Gather sharded tensors on the CPU of the main process.

    They are gathered one at a time, because a device may not hold all of them in full.
    """
    if not dist.is_sharded:
        return dict(tensors)
    return {name: full.cpu() for name, tensor in tensors.items() if (full := full_tensor(tensor)) is not None and dist.is_main}


def _resume_requirements(config: TrainConfig) -> dict[str, object]:
    """Return what must be equal when a run resumes.

    With the same number of processes the resumed run then gives the same bits.
    """
    return {"threads": torch.get_num_threads(), "config": hashing.sha256_json(config.result_fields)}
