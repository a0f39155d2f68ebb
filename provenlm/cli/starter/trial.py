"""Measure how long training steps of a model take on this machine."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

from provenlm.core import registry
from provenlm.core.config import parse_config
from provenlm.core.interfaces import TokenizeSpec
from provenlm.data.token_dataset import TokenDataset
from provenlm.models.common.spec import complete_model, resolve_model
from provenlm.training.config import TrainConfig
from provenlm.training.trainer import Trainer

TRIAL_SECONDS = 4.0
NUM_WARMUP_STEPS = 2
MAX_STEPS = 200


def parse_train(section: Mapping[str, Any]) -> TrainConfig:
    """Parse a `train` section that was chosen here."""
    return parse_config(TrainConfig, section, "new: train")


def step_seconds(model: Mapping[str, Any], train: Mapping[str, Any], domain: str, tokens: TokenDataset) -> float:
    """Train on `tokens` for a few seconds and return the median seconds of a step.

    `model` and `train` are sections of a recipe; their duration does not matter.
    """
    train = {name: value for name, value in train.items() if name not in ("max_steps", "sample", "eval")}
    config = parse_train({**train, "max_steps": MAX_STEPS, "eval": None})
    resolved = complete_model(resolve_model(model, "new: model"), tokens.token_classes, "new: model")
    batches = registry.load_domain(domain, "tokenize", TokenizeSpec)
    trainer = Trainer.create(resolved.spec, resolved.model_config, tokens, config, domain_batches=batches)
    seconds: list[float] = []
    end = time.monotonic() + TRIAL_SECONDS
    for step in trainer.steps():
        seconds.append(step.seconds)
        if time.monotonic() > end and len(seconds) > NUM_WARMUP_STEPS:
            break
    return statistics.median(seconds[NUM_WARMUP_STEPS:] or seconds)
