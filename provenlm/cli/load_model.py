"""A recipe and perhaps a checkpoint's folder in, the trained net and the codec of its corpus out: what generate and export begin with."""

import argparse
from pathlib import Path
from typing import NamedTuple

from provenlm.core import config as parameters
from provenlm.core import interfaces, registry
from provenlm.core.errors import ProvenlmError
from provenlm.core.interfaces import Tokenizer
from provenlm.core.paths import ProjectPaths
from provenlm.training.checkpoints.checkpoint import LoadedModel, find_corruption, load_model


class RecipeModel(NamedTuple):
    """`folder` is the checkpoint that the net was read from."""

    model: LoadedModel
    tokenizer: Tokenizer
    checkpoint_dir: Path


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """The option that `read` takes as its `checkpoint`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="default: the finished net, or the newest checkpoint of an unfinished training",
    )


def load_recipe_model(paths: ProjectPaths, recipe: str, checkpoint: Path | None) -> RecipeModel:
    """The net of `recipe`: of `checkpoint`, else of its finished training, else the newest of an unfinished one. ProvenlmError if there is none."""
    params = parameters.load_params(paths.params_yaml)
    entry = params.entry("recipes", recipe)
    checkpoint_dir = checkpoint or find_checkpoint(paths, recipe)
    if not checkpoint_dir.is_dir():
        raise ProvenlmError(f"{checkpoint_dir.as_posix()}: no such folder; a checkpoint is a folder that holds manifest.json")
    tokenizer_dir = paths.corpus_dir(entry["corpus"], "tokens") / "codec"
    if not tokenizer_dir.is_dir():
        raise ProvenlmError(
            f"{display_path(paths, tokenizer_dir)}: not there; `dvc repro tokenize@{entry['corpus']}` or `dvc pull` brings it"
        )
    tokenizer = registry.load_domain(entry["domain"], "tokenize", interfaces.TokenizeSpec).load(tokenizer_dir)
    model = load_model(checkpoint_dir)
    if model.metadata.vocab_size != tokenizer.vocab_size:
        raise ProvenlmError(
            f"{display_path(paths, checkpoint_dir)}: has a vocabulary of {model.metadata.vocab_size}, the codec of {entry['corpus']} one of "
            f"{tokenizer.vocab_size}; `dvc repro train@{recipe}` trains it anew"
        )
    return RecipeModel(model, tokenizer, checkpoint_dir)


def find_checkpoint(paths: ProjectPaths, recipe: str) -> Path:
    """Where the net of `recipe` lies. ProvenlmError if it was never trained."""
    if (folder := paths.model_dir(recipe)).is_dir():
        return folder
    unfinished = sorted(paths.resume_dir(recipe).glob("*/step-*"), key=lambda folder: folder.name, reverse=True)
    for folder in unfinished:
        if find_corruption(folder) is None:
            return folder
    raise ProvenlmError(
        f"{display_path(paths, paths.model_dir(recipe))}: not there; `dvc repro train@{recipe}` trains it, or give a --checkpoint"
    )


def display_path(paths: ProjectPaths, path: Path) -> str:
    """`path` from the project's root, where it lies below it."""
    return (path.relative_to(paths.root) if path.is_relative_to(paths.root) else path).as_posix()
