"""Load the trained model of a recipe and the tokenizer of its corpus."""

import argparse
from pathlib import Path
from typing import NamedTuple

from provenlm.core.config import load_params
from provenlm.core.errors import CheckpointError
from provenlm.core.interfaces import Tokenizer
from provenlm.core.paths import ProjectPaths
from provenlm.tokenizers.registry import load_tokenizer
from provenlm.training.checkpoints.checkpoint import LoadedModel, find_corruption, load_model


class RecipeModel(NamedTuple):
    """Hold a model, its tokenizer, its checkpoint, and the domain of its corpus."""

    model: LoadedModel
    tokenizer: Tokenizer
    checkpoint_dir: Path
    domain: str


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --checkpoint, the argument `checkpoint` of `load_recipe_model`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="checkpoint to load (default: the finished model, or the newest checkpoint of an unfinished training)",
    )


def load_recipe_model(paths: ProjectPaths, recipe: str, checkpoint: Path | None) -> RecipeModel:
    """Load a checkpoint or the model of a recipe.

    That is `checkpoint`, else the finished model of `recipe`, else the newest checkpoint of its unfinished training.

    Raises CheckpointError if there is none, if the tokenizer is missing, or if the vocabularies differ.
    """
    params = load_params(paths.params_yaml)
    entry = params.entry("recipes", recipe)
    checkpoint_dir = checkpoint or find_checkpoint(paths, recipe)
    if not checkpoint_dir.is_dir():
        raise CheckpointError(f"{checkpoint_dir.as_posix()}: does not exist; a checkpoint is a folder with manifest.json")
    tokenizer_dir = paths.corpus_dir(entry["corpus"], "tokens") / "tokenizer"
    if not tokenizer_dir.is_dir():
        raise CheckpointError(
            f"{display_path(paths, tokenizer_dir)}: does not exist; `dvc repro tokenize@{entry['corpus']}` creates it, `dvc pull` downloads it"
        )
    tokenizer = load_tokenizer(tokenizer_dir, entry["domain"])
    model = load_model(checkpoint_dir)
    if model.metadata.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{display_path(paths, checkpoint_dir)}: must have the vocab_size {tokenizer.vocab_size} of {entry['corpus']}, "
            f"got {model.metadata.vocab_size}; `dvc repro train@{recipe}` retrains it"
        )
    return RecipeModel(model, tokenizer, checkpoint_dir, entry["domain"])


def find_checkpoint(paths: ProjectPaths, recipe: str) -> Path:
    """Find the finished model of `recipe`, or the newest intact checkpoint.

    Raises CheckpointError if there is none.
    """
    if (folder := paths.model_dir(recipe)).is_dir():
        return folder
    unfinished = sorted(paths.resume_dir(recipe).glob("*/step-*"), key=lambda folder: folder.name, reverse=True)
    for folder in unfinished:
        if find_corruption(folder) is None:
            return folder
    raise CheckpointError(
        f"{display_path(paths, paths.model_dir(recipe))}: does not exist; run `dvc repro train@{recipe}` or pass --checkpoint"
    )


def display_path(paths: ProjectPaths, path: Path) -> str:
    """Return `path` relative to the project root if it is below it."""
    return (path.relative_to(paths.root) if path.is_relative_to(paths.root) else path).as_posix()
