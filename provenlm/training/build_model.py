"""Initialise a model for training, and apply activation checkpointing and compilation to it."""

from typing import Any

from torch import nn

from provenlm.core import rng
from provenlm.core.errors import UserError
from provenlm.models.common.layers.decoder import Decoder
from provenlm.models.common.spec import Net
from provenlm.training import rng_state
from provenlm.training.config import Settings


def fresh(net: Net, settings: Any, vocabulary: int, seed: int) -> nn.Module:
    """The net as it is before the first step of a training with `seed`."""
    rng_state.seed_all(rng.seed_of(seed, "weights"))
    return net.build(settings, vocabulary)


def arrange(model: nn.Module, settings: Settings) -> None:
    """What `settings` say of how passes are computed, not what: recompute and compile. UserError for a net without blocks."""
    if settings.recompute is None and not settings.compile:
        return
    if not isinstance(model, Decoder):
        raise UserError("train: recompute and compile are for nets of blocks; null and false would be right for this one")
    model.recompute = settings.recompute
    if settings.compile:
        for block in model.layers:
            block.compile()
