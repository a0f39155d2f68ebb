"""Initialize a model for training and set up compilation and recomputation."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from provenlm.core import rng
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.paths import ProjectPaths
from provenlm.models.common.spec import ModelSpec, ResolvedModel
from provenlm.training import rng_state
from provenlm.training.config import TrainConfig


def init_model(spec: ModelSpec, model_config: Any, vocab_size: int, seed: int, base_model_dir: Path | None = None) -> nn.Module:
    """Build the model with the weights that training with `seed` starts from.

    Raises DataError if the weights of the base model are missing, damaged or of another shape.
    """
    rng_state.seed_all(rng.derive_seed(seed, "weights"))
    model = spec.build(model_config, vocab_size)
    if base_model_dir is not None and spec.load_base_model is not None:
        try:
            spec.load_base_model(model, base_model_dir)
        except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{base_model_dir}: must hold the weights of a model of the same shape, got: {reason}") from error
    return model


def find_base_model(name: str, model: ResolvedModel, paths: ProjectPaths, location: str) -> Path | None:
    """Return the folder of a base model; None if `name` is "none".

    `location` is the prefix of error messages. Raises ConfigError if the folder does not exist or the model cannot load it.
    """
    if name == "none":
        return None
    folder = paths.base_model_dir(name)
    if not folder.is_dir():
        got = folder.relative_to(paths.root).as_posix()
        raise ConfigError(f"{location}: must be none or a folder below models/base, got {got}, which does not exist")
    if model.spec.load_base_model is None:
        raise ConfigError(f"{location}: must be none, because the model {model.arch} cannot start from one, got {name}")
    return folder


def apply_compile_and_ac(spec: ModelSpec, model: nn.Module, config: TrainConfig) -> None:
    """Set activation checkpointing and compile the blocks of the model.

    Raises ConfigError if the config asks for either and the model does not offer the capability `blocks`.
    """
    if config.activation_checkpointing is None and not config.compile:
        return
    if spec.blocks is None:
        field = (
            "activation_checkpointing: must be null" if config.activation_checkpointing is not None else "compile: must be false"
        )
        raise ConfigError(f"train.{field} for a model without the capability blocks")
    blocks = spec.blocks(model)
    blocks.blocks_per_checkpoint = config.activation_checkpointing
    if config.compile:
        for block in blocks:
            block.compile()
