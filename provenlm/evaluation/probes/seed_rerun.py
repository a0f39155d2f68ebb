"""A recipe's training in, a net trained so with another seed out: how much of a result is luck shows only beside others."""

from dataclasses import replace
from typing import Any

from torch import nn

from provenlm.core.progress import progress_bar
from provenlm.data.token_dataset import TokenDataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ModelSpec
from provenlm.training.build_model import arrange, fresh
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader, resolve_max_steps
from provenlm.training.device import resolve_device
from provenlm.training.loop import train_steps
from provenlm.training.run import build_callbacks


def retrain_with_seed(
    spec: ModelSpec, model_config: Any, dataset: TokenDataset, config: TrainConfig, seed: int
) -> tuple[nn.Module, float]:
    """The net that is published, on the CPU, and the wall seconds of its steps; by one process, and without a checkpoint."""
    rerun_config = replace(resolve_max_steps(config, dataset), seed_generators=seed, distributed=None)
    model = fresh(spec, model_config, dataset.vocab_size, seed).to(resolve_device(rerun_config.device))
    arrange(model, rerun_config)
    objectives, seconds = spec.objectives(model, IGNORE), 0.0
    callbacks = build_callbacks(rerun_config, objectives[0].eval_term)
    with progress_bar(f"seed {seed}", "step", rerun_config.total_steps) as bar:
        for step in train_steps(
            model, objectives, build_dataloader(dataset, rerun_config), callbacks, rerun_config, None, lambda: None
        ):
            seconds += step.seconds
            bar.update()
    trained_model = fresh(spec, model_config, dataset.vocab_size, seed)
    trained_model.load_state_dict(dict(step.snapshot().state_dicts["model"]))
    return trained_model.eval(), seconds
