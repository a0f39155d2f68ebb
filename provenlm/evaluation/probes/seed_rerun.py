"""Train a recipe again with another seed, to measure the spread over seeds."""

from dataclasses import replace
from typing import Any

from torch import nn

from provenlm.core.progress import progress_bar
from provenlm.data.token_dataset import TokenDataset
from provenlm.models.common.spec import ModelSpec
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DomainBatches
from provenlm.training.trainer import Trainer


def retrain_with_seed(
    spec: ModelSpec,
    model_config: Any,
    dataset: TokenDataset,
    config: TrainConfig,
    seed: int,
    domain_batches: DomainBatches | None = None,
) -> tuple[nn.Module, float]:
    """Train in one process, without checkpoints.

    Returns the published model, on the CPU, and the wall seconds of its steps.
    """
    rerun_config, seconds = replace(config, seed=seed, distributed=None), 0.0
    trainer = Trainer.create(spec, model_config, dataset, rerun_config, domain_batches=domain_batches)
    with progress_bar(f"seed {seed}", "step", trainer.config.total_steps) as bar:
        for step in trainer.steps():
            seconds += step.seconds
            bar.update()
    trained_model = spec.build(model_config, dataset.vocab_size)
    trained_model.load_state_dict(dict(step.snapshot().state_dicts["model"]))
    return trained_model.eval(), seconds
