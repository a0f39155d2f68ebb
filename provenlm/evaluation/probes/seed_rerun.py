"""Train a recipe again with another seed, to measure the spread over seeds."""

from dataclasses import replace
from typing import Any

from torch import nn

from provenlm.core.progress import progress_bar
from provenlm.data.token_dataset import TokenDataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ModelSpec
from provenlm.training.build_model import apply_compile_and_ac, init_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader, resolve_max_steps
from provenlm.training.device import resolve_device
from provenlm.training.loop import train_steps
from provenlm.training.run import build_callbacks


def retrain_with_seed(
    spec: ModelSpec, model_config: Any, dataset: TokenDataset, config: TrainConfig, seed: int
) -> tuple[nn.Module, float]:
    """Train in one process, without checkpoints.

    Returns the published model, on the CPU, and the wall seconds of its steps.
    """
    rerun_config = replace(resolve_max_steps(config, dataset), seed=seed, distributed=None)
    model = init_model(spec, model_config, dataset.vocab_size, seed).to(resolve_device(rerun_config.device))
    apply_compile_and_ac(spec, model, rerun_config)
    objectives, seconds = spec.objectives(model, IGNORE), 0.0
    callbacks = build_callbacks(rerun_config, objectives[0].eval_term)
    with progress_bar(f"seed {seed}", "step", rerun_config.total_steps) as bar:
        for step in train_steps(
            model, objectives, build_dataloader(dataset, rerun_config), callbacks, rerun_config, None, lambda: None
        ):
            seconds += step.seconds
            bar.update()
    trained_model = init_model(spec, model_config, dataset.vocab_size, seed)
    trained_model.load_state_dict(dict(step.snapshot().state_dicts["model"]))
    return trained_model.eval(), seconds
