"""Initialize a model for training and set up compilation and recomputation."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from provenlm.core import rng
from provenlm.core.config import NO_BASE_MODEL, Params
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.paths import ProjectPaths
from provenlm.models.common.spec import ModelSpec, ResolvedModel, resolve_model
from provenlm.training import rng_state
from provenlm.training.config import TrainConfig

SHAPE_VOCAB_SIZE = 64  # of models whose shapes are compared: the vocabularies are compared by their tokenizers


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


def find_base_model(params: Params, recipe: str, model: ResolvedModel, paths: ProjectPaths) -> Path | None:
    """Return the folder of the base model of a recipe.

    None for training from random weights. The folder of another recipe need not exist yet. Raises ConfigError if that recipe's model has
    another shape, if a folder below models/base does not exist, or if the model cannot load weights.
    """
    name = str(params.entry("recipes", recipe)["base_model"])
    if name == NO_BASE_MODEL:
        return None
    location = params.location("recipes", recipe, "base_model")
    folder, is_recipe = paths.base_model_dir(name), name in params.names("recipes")
    if not is_recipe and not folder.is_dir():
        known = ", ".join(f"base/{path.name}" for path in sorted(paths.base_model_dir("base").glob("*/"))) or "no folder"
        raise ConfigError(f"{location}: must be a folder below models/base, got {name}, which does not exist; there: {known}")
    if model.spec.load_base_model is None:
        raise ConfigError(f"{location}: must be none, because the model {model.arch} cannot start from one, got {name}")
    if is_recipe:
        base = resolve_model(params.entry("recipes", name)["model"], params.location("recipes", name, "model"))
        if problem := _find_shape_difference(model, base):
            raise ConfigError(
                f"{params.location('recipes', recipe, 'model')}: must have the shape of its base model {name}: {problem}"
            )
    return folder


def _find_shape_difference(model: ResolvedModel, base: ResolvedModel) -> str | None:
    """Return how a tensor of the model differs from that of its base model, or None."""
    if model.arch != base.arch:
        return f"arch must be {base.arch}, got {model.arch}"
    shapes, base_shapes = _tensor_shapes(model), _tensor_shapes(base)
    for name in sorted(shapes.keys() | base_shapes.keys()):
        expected, actual = base_shapes.get(name), shapes.get(name)
        if expected != actual:
            return f"{name} must be {expected or 'absent'}, got {actual or 'none'}"
    return None


def _tensor_shapes(model: ResolvedModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the weights, without allocating them."""
    with torch.device("meta"):
        tensors = model.spec.build(model.model_config, SHAPE_VOCAB_SIZE).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


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
