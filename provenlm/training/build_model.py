"""Initialise a model for training, and apply activation checkpointing and compilation to it."""

from typing import Any

from torch import nn

from provenlm.core import rng
from provenlm.core.errors import ProvenlmError
from provenlm.models.common.layers.decoder import Decoder
from provenlm.models.common.spec import ModelSpec
from provenlm.training import rng_state
from provenlm.training.config import TrainConfig


def fresh(net: ModelSpec, settings: Any, vocabulary: int, seed: int) -> nn.Module:
    """The net as it is before the first step of a training with `seed`."""
    rng_state.seed_all(rng.derive_seed(seed, "weights"))
    return net.build(settings, vocabulary)


def arrange(model: nn.Module, settings: TrainConfig) -> None:
    """What `settings` say of how passes are computed, not what: recompute and compile. ProvenlmError for a net without blocks."""
    if settings.activation_checkpointing is None and not settings.compile:
        return
    if not isinstance(model, Decoder):
        raise ProvenlmError("train: recompute and compile are for nets of blocks; null and false would be right for this one")
    model.activation_checkpointing = settings.activation_checkpointing
    if settings.compile:
        for block in model.layers:
            block.compile()
