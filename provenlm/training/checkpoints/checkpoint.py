"""Write and read checkpoints: safetensors and JSON with digests, no pickle."""

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
from provenlm.core.errors import CheckpointError
from provenlm.models.common.spec import ModelSpec

METADATA_FILE = "model.json"  # of a checkpoint: `ModelMetadata`


@dataclass(frozen=True)
class Checkpoint:
    """Hold all that is needed to resume a run as if it had never stopped.

    `state_dicts`: tensors by file (`model`, `optimizer`, `rng`), then by name. `metadata`: JSON, such as the step.
    """

    state_dicts: Mapping[str, Mapping[str, Tensor]]
    metadata: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, extra_files: Mapping[str, bytes]) -> None:
    """Write a checkpoint to `folder` atomically, replacing old content.

    Files: `<name>.safetensors`, state.json, `extra_files`, and manifest.json with the digests of all of them.
    """
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
    """Yield name and bytes of each file, one at a time to bound the memory."""
    for name, tensors in checkpoint.state_dicts.items():
        yield f"{name}.safetensors", save(_cpu_tensors(tensors))
    yield "state.json", json.dumps(checkpoint.metadata, allow_nan=False).encode()
    yield from extra_files.items()


def _cpu_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU as safetensors needs them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _fsync_dir(folder: Path) -> None:
    """Flush a folder to disk: a rename is durable only after that."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def find_corruption(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None.

    Every file of the manifest must exist with its size and digest.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, entry in manifest.items():
            if (folder / name).stat().st_size != entry["bytes"]:
                return f"{name} must have {entry['bytes']} bytes, got {(folder / name).stat().st_size}"
            if hashing.sha256_file(folder / name) != entry["sha256"]:
                return f"{name} differs from the digest in manifest.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError if it is damaged."""
    if problem := find_corruption(folder):
        raise CheckpointError(f"{folder.as_posix()}: damaged or incomplete checkpoint: {problem}")
    state_dicts = {path.stem: load(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(state_dicts, json.loads((folder / "state.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class ModelMetadata:
    """Hold `model.json`: architecture, config, vocabulary size, sequence length.

    `tokenizer_sha256` is the digest of the tokenizer's files, vocabulary included; "" if it is unknown.
    """

    arch: str
    config: Mapping[str, Any]
    vocab_size: int
    seq_len: int
    tokenizer_sha256: str = ""

    def to_json(self) -> bytes:
        """Serialize to JSON."""
        return json.dumps(vars(self), indent=2).encode()


@dataclass(frozen=True)
class LoadedModel:
    """Hold a trained model in eval mode, on the CPU, with its spec and metadata."""

    spec: ModelSpec
    model_config: Any
    model: nn.Module
    metadata: ModelMetadata


def load_model(folder: Path) -> LoadedModel:
    """Load the model that training wrote to `folder`.

    Raises CheckpointError if a file is damaged or the weights do not fit the config.
    """
    if problem := find_corruption(folder):
        raise CheckpointError(f"{folder.as_posix()}: damaged or incomplete checkpoint: {problem}")
    location = f"{folder.as_posix()}/{METADATA_FILE}"
    metadata = config.parse_config(ModelMetadata, json.loads((folder / METADATA_FILE).read_text(encoding="utf-8")), location)
    spec = registry.load_model(metadata.arch, ModelSpec)
    model_config: Any = config.parse_config(spec.config_type, metadata.config, location)
    model = spec.build(model_config, metadata.vocab_size)
    try:
        model.load_state_dict(load((folder / "model.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise CheckpointError(f"{folder.as_posix()}: model.safetensors does not fit {METADATA_FILE}: {message}") from None
    return LoadedModel(spec, model_config, model.eval(), metadata)
