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
from provenlm.core.errors import ProvenlmError
from provenlm.models.common.spec import ModelSpec


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: by file (`model`, `optimizer`, `random`), then by name. `facts`: JSON, such as step and position."""

    state_dicts: Mapping[str, Mapping[str, Tensor]]
    metadata: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, extra_files: Mapping[str, bytes]) -> None:
    """Fill `folder` in one rename: `<name>.safetensors`, state.json, the `extra` files, and a manifest of all. Old content goes."""
    manifest = {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with io.atomic_dir(folder) as temp_dir:
        for name, data in _file_contents(checkpoint, extra_files):
            io.write_bytes(temp_dir / name, data)
            manifest[name] = {"bytes": len(data), "sha256": hashing.sha256_bytes(data)}
        io.write_json(temp_dir / "manifest.json", {"files": manifest})
        _fsync_dir(temp_dir)
    _fsync_dir(folder.parent)


def _file_contents(checkpoint: Checkpoint, extra_files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file, one at a time: together they would be a second copy of the whole state."""
    for name, tensors in checkpoint.state_dicts.items():
        yield f"{name}.safetensors", save(_cpu_tensors(tensors))
    yield "state.json", json.dumps(checkpoint.metadata, allow_nan=False).encode()
    yield from extra_files.items()


def _cpu_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _fsync_dir(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def find_corruption(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None: every file of the manifest must be there with its digest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, entry in manifest.items():
            if (folder / name).stat().st_size != entry["bytes"]:
                return f"{name} is not {entry['bytes']} bytes long"
            if hashing.sha256_file(folder / name) != entry["sha256"]:
                return f"{name} does not have the digest of the manifest"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint that `write` left. ProvenlmError if it is damaged."""
    if problem := find_corruption(folder):
        raise ProvenlmError(f"{folder.as_posix()}: not a whole checkpoint: {problem}")
    state_dicts = {path.stem: load(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(state_dicts, json.loads((folder / "state.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class ModelMetadata:
    """`net.json`: which architecture, with which settings, over which vocabulary, trained on rows of which length."""

    arch: str
    config: Mapping[str, Any]
    vocab_size: int
    seq_len: int

    def to_json(self) -> bytes:
        return json.dumps(vars(self), indent=2).encode()


@dataclass(frozen=True)
class LoadedModel:
    """A trained net in eval mode, on the CPU, with the answers of its architecture."""

    spec: ModelSpec
    model_config: Any
    model: nn.Module
    metadata: ModelMetadata


def load_model(folder: Path) -> LoadedModel:
    """The net that training left in `folder`. ProvenlmError if a file is damaged or the weights do not fit the settings."""
    if problem := find_corruption(folder):
        raise ProvenlmError(f"{folder.as_posix()}: not a whole checkpoint: {problem}")
    location = f"{folder.as_posix()}/net.json"
    metadata = config.parse_config(ModelMetadata, json.loads((folder / "net.json").read_text(encoding="utf-8")), location)
    spec = registry.load_model(metadata.arch, ModelSpec)
    model_config: Any = config.parse_config(spec.config_type, metadata.config, location)
    model = spec.build(model_config, metadata.vocab_size)
    try:
        model.load_state_dict(load((folder / "model.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        raise ProvenlmError(f"{folder.as_posix()}: weights that do not fit net.json: {' '.join(str(error).split())}") from None
    return LoadedModel(spec, model_config, model.eval(), metadata)
