"""What lives through a run: the net, its optimizers, its monitors and how far it is; a checkpoint of all that, and back."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core import hashing, rng
from provenlm.core.errors import ProvenlmError
from provenlm.models.common.objective import Batch, Objective
from provenlm.training import rng_state
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
    """`slower`: factors on the rates, each with the step up to which it holds."""

    model: nn.Module
    objectives: Sequence[Objective]
    optimizers: list[list[torch.optim.Optimizer]]
    callbacks: Sequence[Callback]
    config: TrainConfig
    dist: DistributedContext
    step: int = 0
    samples_seen: int = 0  # rows drawn or passed over
    lr_backoffs: list[tuple[float, int]] = field(default_factory=list)
    oom_backoff: OomBackoff = field(init=False)
    eval_oom_backoff: OomBackoff = field(init=False)
    grad_scaler: GradScaler = field(init=False)
    ema: EMA | None = field(init=False)

    def __post_init__(self) -> None:
        self.grad_scaler = GradScaler(self.config.precision)
        self.ema = None if self.config.ema_decay is None else EMA(self.model, self.config.ema_decay)
        self.oom_backoff, self.eval_oom_backoff = (
            OomBackoff(self.config.max_micro_batch_size),
            OomBackoff(self.config.max_micro_batch_size),
        )

    @property
    def param_names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def lr_scale(self) -> float:
        """The next step's share of the peak rates: what the schedule says, and less for a while after going back."""
        scale = lr_scheduler.lr_scale(self.config.lr_schedule, self.step, self.config.total_steps)
        for factor, until_step in self.lr_backoffs:
            scale *= factor if self.step < until_step else 1.0
        return scale

    def eval_weights(self) -> AbstractContextManager[None]:
        """Within the block the net has the weights that are published."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def snapshot(self) -> Checkpoint:
        """Everything that decides what comes next, in the first process; what the net holds in parts is brought together for it, so all
        must ask. Tensors are not copied: copy or write them before the next step.

        `model` is what is published; where that is an average, `trained` is what training goes on from.
        """
        optimizer_state = {
            f"{objective.name}/{name}": tensor
            for objective, optimizers in zip(self.objectives, self.optimizers, strict=True)
            for name, tensor in optim.optimizer_state(optimizers, self.param_names).items()
        }
        rng_tensors, host_states = self.dist.all_gather(*rng_state.get_rng_state())
        metadata = {
            "step": self.step,
            "position": self.samples_seen,
            "slower": self.lr_backoffs,
            "room": [self.oom_backoff.micro_batch_size, self.eval_oom_backoff.micro_batch_size],
            "scaler": [self.grad_scaler.scale, self.grad_scaler.growth_tracker],
            "monitors": [callback.state_dict() for callback in self.callbacks],
            "random": host_states,
            **_resume_requirements(self.config),
        }
        state_dicts = {"model": self.model.state_dict(), "optimizer": optimizer_state}
        if self.ema is not None:
            state_dicts = {**state_dicts, "model": self.ema.state_dict(), "trained": state_dicts["model"]}
        return Checkpoint(
            {**{file: _full_tensors(state_dict, self.dist) for file, state_dict in state_dicts.items()}, "random": rng_tensors},
            metadata,
        )

    def debug_dump(self, batch: Batch, saved_rng: tuple[Mapping[str, Tensor], Any], metadata: Mapping[str, Any]) -> Checkpoint:
        """The weights, a batch, and the random states of the first process before it was computed: all that a step's losses and
        gradients depend on, but for the draws of dropout in other processes."""
        rng_tensors, host_state = saved_rng
        batch_tensors = {
            batch_field.name: value
            for batch_field in fields(batch)
            if isinstance(value := getattr(batch, batch_field.name), Tensor)
        }
        model = _full_tensors(self.model.state_dict(), self.dist)
        return Checkpoint({"model": model, "batch": batch_tensors, "random": rng_tensors}, {**metadata, "random": host_state})

    def seed_generators(self, *keys: object) -> None:
        """Start this process's random generators anew; those of no two processes give the same."""
        rank_keys = (self.dist.rank,) if self.dist.rank else ()
        rng_state.seed_all(rng.derive_seed(self.config.seed, "steps", *rank_keys, *keys))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `snapshot` saw. ProvenlmError if that was under other settings or another number of threads."""
        metadata = checkpoint.metadata
        for key, value in _resume_requirements(self.config).items():
            if metadata[key] != value:
                raise ProvenlmError(f"the checkpoint was made with {key} {metadata[key]}, this run has {value}; start anew")
        current, weights = self.model.state_dict(), checkpoint.state_dicts.get("trained", checkpoint.state_dicts["model"])
        self.model.load_state_dict({name: shard_like(tensor, current[name]) for name, tensor in weights.items()})
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint.state_dicts["model"])
        for objective, optimizers in zip(self.objectives, self.optimizers, strict=True):
            prefix = f"{objective.name}/"
            optimizer_tensors = {
                k.removeprefix(prefix): v for k, v in checkpoint.state_dicts["optimizer"].items() if k.startswith(prefix)
            }
            optim.load_optimizer_state(optimizers, self.param_names, optimizer_tensors)
        for callback, state in zip(self.callbacks, metadata["monitors"], strict=True):
            callback.load_state_dict(state)
        self.step, self.samples_seen = metadata["step"], metadata["position"]
        self.grad_scaler.scale, self.grad_scaler.growth_tracker = metadata["scaler"]
        self.lr_backoffs = [(factor, until_step) for factor, until_step in metadata["slower"]]
        self.oom_backoff, self.eval_oom_backoff = (OomBackoff(micro_batch_size) for micro_batch_size in metadata["room"])
        saved_rng = self.dist.local_part(checkpoint.state_dicts["random"], metadata["random"])
        if saved_rng is None:
            self.seed_generators(self.step)  # there were fewer processes when the checkpoint was made
        else:
            rng_state.set_rng_state(*saved_rng)  # last: what came before may draw

    def rollback(self, checkpoint: Checkpoint, action: Rollback) -> str:
        """Become `good`, but stay where we are in the data and go on more slowly; in words what was done."""
        failed_step, samples_seen, lr_backoffs, oom_backoffs = (
            self.step,
            self.samples_seen,
            self.lr_backoffs,
            (self.oom_backoff, self.eval_oom_backoff),
        )
        self.restore(checkpoint)
        self.oom_backoff, self.eval_oom_backoff = oom_backoffs
        num_skipped = samples_seen - self.samples_seen
        self.samples_seen = samples_seen
        self.lr_backoffs = [*lr_backoffs, (action.lr_factor, self.step + action.lr_steps)]
        return (
            f"{action.reason}; went back from step {failed_step} to {self.step}, past {num_skipped} rows, "
            f"rates × {action.lr_factor:g} for {action.lr_steps} steps"
        )


def _full_tensors(tensors: Mapping[str, Tensor], dist: DistributedContext) -> dict[str, Tensor]:
    """Those that are in parts leave the device one by one, because it may not hold them all whole; only the first process keeps them."""
    if not dist.is_sharded:
        return dict(tensors)
    return {name: full.cpu() for name, tensor in tensors.items() if (full := full_tensor(tensor)) is not None and dist.is_main}


def _resume_requirements(config: TrainConfig) -> dict[str, object]:
    """What must be the same for a resumed run to go on; with as many processes it gives the same bits."""
    return {"threads": torch.get_num_threads(), "settings": hashing.sha256_json(config.result_fields)}
