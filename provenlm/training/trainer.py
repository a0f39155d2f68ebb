"""Assemble a training: model, objectives, data, callbacks and processes.

The train stage, the preflight test, continued trainings and the evaluation of resumes, seeds and compilation all use it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import TokenDataset
from provenlm.models.common.objective import IGNORE, Objective
from provenlm.models.common.spec import ModelSpec
from provenlm.training.build_model import apply_compile_and_ac, init_model
from provenlm.training.callbacks.early_stopping import PatienceCallback
from provenlm.training.callbacks.nonfinite import NonFiniteGuard
from provenlm.training.callbacks.spike_guard import SpikeGuard
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DataLoader, DomainBatches, build_dataloader, resolve_max_steps
from provenlm.training.device import resolve_device
from provenlm.training.distributed.fsdp import apply_fsdp, unsharded_objective
from provenlm.training.distributed.process_group import DistributedContext
from provenlm.training.loop import RollbackLoader, train_steps
from provenlm.training.step import Callback, StepResult


@dataclass(frozen=True)
class Trainer:
    """Hold all parts of a training; `steps` runs it."""

    spec: ModelSpec
    model: nn.Module
    objectives: Sequence[Objective]
    dataloader: DataLoader
    callbacks: Sequence[Callback]
    config: TrainConfig
    dist: DistributedContext

    @classmethod
    def create(
        cls,
        spec: ModelSpec,
        model_config: Any,
        dataset: TokenDataset,
        config: TrainConfig,
        *,
        model: nn.Module | None = None,
        dist: DistributedContext | None = None,
        domain_batches: DomainBatches | None = None,
    ) -> "Trainer":
        """Assemble a training on `dataset`.

        None for `model`: the one that `config.seed` gives.

        A duration in epochs or tokens is converted to steps. Raises ConfigError or DataError if the parts do not fit.
        """
        config = resolve_max_steps(config, dataset, domain_batches)
        if model is None:
            model = init_model(spec, model_config, dataset.vocab_size, config.seed)
        return cls.assemble(spec, model, build_dataloader(dataset, config, domain_batches), config, dist)

    @classmethod
    def assemble(
        cls,
        spec: ModelSpec,
        model: nn.Module,
        dataloader: DataLoader,
        config: TrainConfig,
        dist: DistributedContext | None = None,
    ) -> "Trainer":
        """Assemble a training of `model`, which moves to its device.

        None for `dist`: one process on `config.device`.
        """
        if dist is None:
            dist = DistributedContext(0, 1, "ddp", resolve_device(config.device))
        model = model.to(dist.device)
        apply_compile_and_ac(spec, model, config)
        wrap = apply_fsdp(model, dist.device.type) if dist.is_sharded else unsharded_objective
        objectives = [wrap(objective) for objective in spec.objectives(model, IGNORE)]
        names = [objective.name for objective in objectives]
        if unknown := sorted(config.optimizer.lr_factors.keys() - set(names)):
            raise ConfigError(
                f"train.optimizer.lr_factors must name objectives of the model ({', '.join(names)}), got {unknown[0]}"
            )
        return cls(spec, model, objectives, dataloader, build_callbacks(config, objectives[0].eval_term), config, dist)

    @property
    def eval_term(self) -> str:
        """Return the name of the loss term that measures validation data."""
        return self.objectives[0].eval_term

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.dist.device

    def steps(self, resume: Checkpoint | None = None, load_rollback: RollbackLoader = lambda: None) -> Iterator[StepResult]:
        """Train and yield after every step; see `train_steps`."""
        return train_steps(
            self.model, self.objectives, self.dataloader, self.callbacks, self.config, resume, load_rollback, self.dist
        )


def build_callbacks(config: TrainConfig, eval_term: str) -> list[Callback]:
    """Build the callbacks that a config asks for.

    `eval_term` names the term of the validation loss that some of them watch.
    """
    callbacks: list[Callback] = [NonFiniteGuard() if config.spike_guard is None else SpikeGuard(config.spike_guard)]
    return callbacks + [
        PatienceCallback(patience_config, eval_term)
        for patience_config in (config.reduce_lr_on_plateau, config.early_stopping)
        if patience_config is not None
    ]
