"""A recipe and perhaps a checkpoint's folder in, the trained net and the codec of its corpus out: what generate and export begin with."""

import argparse
from pathlib import Path
from typing import NamedTuple

from provenlm.core import config as parameters
from provenlm.core import interfaces, registry
from provenlm.core.errors import UserError
from provenlm.core.interfaces import Codec
from provenlm.core.paths import Layout
from provenlm.training.checkpoints.checkpoint import Loaded, damage, load_net


class Trained(NamedTuple):
    """`folder` is the checkpoint that the net was read from."""

    net: Loaded
    codec: Codec
    folder: Path


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The option that `read` takes as its `checkpoint`."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="default: the finished net, or the newest checkpoint of an unfinished training",
    )


def read(layout: Layout, recipe: str, checkpoint: Path | None) -> Trained:
    """The net of `recipe`: of `checkpoint`, else of its finished training, else the newest of an unfinished one. UserError if there is none."""
    params = parameters.load(layout.params)
    row = params.row("recipes", recipe)
    folder = checkpoint or finished_or_newest(layout, recipe)
    if not folder.is_dir():
        raise UserError(f"{folder.as_posix()}: no such folder; a checkpoint is a folder that holds manifest.json")
    codec_folder = layout.corpus(row["corpus"], "tokens") / "codec"
    if not codec_folder.is_dir():
        raise UserError(f"{shown(layout, codec_folder)}: not there; `dvc repro tokenize@{row['corpus']}` or `dvc pull` brings it")
    codec = registry.load_domain(row["domain"], "tokenize", interfaces.Tokenizing).load(codec_folder)
    net = load_net(folder)
    if net.described.vocabulary != codec.vocabulary:
        raise UserError(
            f"{shown(layout, folder)}: has a vocabulary of {net.described.vocabulary}, the codec of {row['corpus']} one of "
            f"{codec.vocabulary}; `dvc repro train@{recipe}` trains it anew"
        )
    return Trained(net, codec, folder)


def finished_or_newest(layout: Layout, recipe: str) -> Path:
    """Where the net of `recipe` lies. UserError if it was never trained."""
    if (folder := layout.model(recipe)).is_dir():
        return folder
    unfinished = sorted(layout.resume(recipe).glob("*/step-*"), key=lambda folder: folder.name, reverse=True)
    for folder in unfinished:
        if damage(folder) is None:
            return folder
    raise UserError(
        f"{shown(layout, layout.model(recipe))}: not there; `dvc repro train@{recipe}` trains it, or give a --checkpoint"
    )


def shown(layout: Layout, path: Path) -> str:
    """`path` from the project's root, where it lies below it."""
    return (path.relative_to(layout.root) if path.is_relative_to(layout.root) else path).as_posix()
