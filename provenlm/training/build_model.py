"""Initialise a model for training and set up compilation and recomputation."""

from typing import Any

from torch import nn

from provenlm.core import rng
from provenlm.core.errors import ConfigError
from provenlm.models.common.layers.decoder import Decoder
from provenlm.models.common.spec import ModelSpec
from provenlm.training import rng_state
from provenlm.training.config import TrainConfig


def init_model(spec: ModelSpec, model_config: Any, vocab_size: int, seed: int) -> nn.Module:
    """Build the model with the weights that training with `seed` starts from."""
    rng_state.seed_all(rng.derive_seed(seed, "weights"))
    return spec.build(model_config, vocab_size)


def apply_compile_and_ac(model: nn.Module, config: TrainConfig) -> None:
    """Set the model's activation checkpointing and compile its blocks.

    Raises ConfigError if the config asks for either and the model has no transformer blocks.
    """
    if config.activation_checkpointing is None and not config.compile:
        return
    if not isinstance(model, Decoder):
        field = "activation_checkpointing must be null" if config.activation_checkpointing is not None else "compile must be false"
        raise ConfigError(f"train.{field}: this model has no transformer blocks")
    model.activation_checkpointing = config.activation_checkpointing
    if config.compile:
        for block in model.layers:
            block.compile()
