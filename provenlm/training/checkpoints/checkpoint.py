"""Checkpoints: all that is needed to go on as if never stopped, as safetensors and JSON with digests; nothing is unpickled."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from provenlm.core import config, hashing, io, registry
from provenlm.core.errors import UserError
from provenlm.models.common.spec import Net


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: by file (`model`, `optimizer`, `random`), then by name. `facts`: JSON, such as step and position."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def write(folder: Path, checkpoint: Checkpoint, extra: Mapping[str, bytes]) -> None:
    """Fill `folder` in one rename: `<name>.safetensors`, state.json, the `extra` files, and a manifest of all. Old content goes."""
    manifest = {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with io.new_folder(folder) as new:
        for name, data in _contents(checkpoint, extra):
            io.write_bytes(new / name, data)
            manifest[name] = {"bytes": len(data), "sha256": hashing.of_bytes(data)}
        io.write_json(new / "manifest.json", {"files": manifest})
        _sync(new)
    _sync(folder.parent)


def _contents(checkpoint: Checkpoint, extra: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file, one at a time: together they would be a second copy of the whole state."""
    for name, tensors in checkpoint.tensors.items():
        yield f"{name}.safetensors", save(_plain(tensors))
    yield "state.json", json.dumps(checkpoint.facts, allow_nan=False).encode()
    yield from extra.items()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sync(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None: every file of the manifest must be there with its digest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, said in manifest.items():
            if (folder / name).stat().st_size != said["bytes"]:
                return f"{name} is not {said['bytes']} bytes long"
            if hashing.of_file(folder / name) != said["sha256"]:
                return f"{name} does not have the digest of the manifest"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def read(folder: Path) -> Checkpoint:
    """A checkpoint that `write` left. UserError if it is damaged."""
    if wrong := damage(folder):
        raise UserError(f"{folder.as_posix()}: not a whole checkpoint: {wrong}")
    tensors = {path.stem: load(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(tensors, json.loads((folder / "state.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Described:
    """`net.json`: which architecture, with which settings, over which vocabulary, trained on rows of which length."""

    kind: str
    settings: Mapping[str, Any]
    vocabulary: int
    length: int

    def to_json(self) -> bytes:
        return json.dumps(vars(self), indent=2).encode()


@dataclass(frozen=True)
class Loaded:
    """A trained net in eval mode, on the CPU, with the answers of its architecture."""

    net: Net
    settings: Any
    model: nn.Module
    described: Described


def load_net(folder: Path) -> Loaded:
    """The net that training left in `folder`. UserError if a file is damaged or the weights do not fit the settings."""
    if wrong := damage(folder):
        raise UserError(f"{folder.as_posix()}: not a whole checkpoint: {wrong}")
    where = f"{folder.as_posix()}/net.json"
    described = config.parse(Described, json.loads((folder / "net.json").read_text(encoding="utf-8")), where)
    net = registry.load_model(described.kind, Net)
    settings: Any = config.parse(net.settings, described.settings, where)
    model = net.build(settings, described.vocabulary)
    try:
        model.load_state_dict(load((folder / "model.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder.as_posix()}: weights that do not fit net.json: {' '.join(str(error).split())}") from None
    return Loaded(net, settings, model.eval(), described)
