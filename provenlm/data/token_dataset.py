"""Write and memory-map token datasets.

A dataset is two flat arrays, `train.bin` and `val.bin`, with an index of their documents. A document holds the ids of one record,
after the tokenizer's `bos` and before its `eos` where it has such tokens.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provenlm.core import hashing, io, rng
from provenlm.core.errors import DataError

SplitName = Literal["train", "val"]
SPLIT_NAMES: tuple[SplitName, SplitName] = ("train", "val")
INDEX_SCHEMA = pa.schema(
    [("id", pa.string()), ("cluster", pa.string()), ("split", pa.string()), ("tokens", pa.int64()), ("bytes", pa.int64())]
)


@dataclass(frozen=True)
class DatasetSplit:
    """Hold one split of a token dataset.

    `ids` is uint16 or uint32 (tokens,), `doc_offsets` int64 (documents + 1,): offsets into `ids`.
    """

    ids: NDArray[Any]
    doc_offsets: NDArray[np.int64]
    record_ids: list[str]
    doc_bytes: NDArray[np.int64]  # content size of each document
    clusters: list[str] = field(default_factory=list)  # duplicate cluster of each document


@dataclass(frozen=True)
class TokenDataset:
    """Hold a tokenized corpus.

    `special_tokens` maps `pad`, `unk`, `bos` and `eos`, where they exist, to ids. `token_classes` maps the names of classes to their
    ids, int64 in increasing order, where the tokenizer has classes: `Bar`, `Pitch` …
    """

    train: DatasetSplit
    val: DatasetSplit
    vocab_size: int
    special_tokens: Mapping[str, int]
    token_classes: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """Hold a document to write; `ids` has no special tokens."""

    id: str
    cluster: str
    num_bytes: int
    ids: NDArray[np.uint32]


def assign_split(cluster: str, val_fraction: float) -> SplitName:
    """Return the split of a duplicate cluster.

    It depends only on its name and `val_fraction` (0 to 1).
    """
    return "val" if rng.hash_to_unit(cluster, rng.SPLIT_SALT) < val_fraction else "train"


def write_token_dataset(
    folder: Path,
    documents: Iterable[TokenizedDocument],
    vocab_size: int,
    special_tokens: Mapping[str, int],
    val_fraction: float,
    token_classes: Mapping[str, NDArray[np.int64]] | None = None,
) -> None:
    """Write both splits, their index and a manifest with their digests.

    Memory holds one document at a time. Ids are little-endian uint16, or uint32 for more than 65,536 ids. Raises ValueError for an
    id outside the vocabulary.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    prefix, suffix = (np.array([special_tokens[name]] if name in special_tokens else [], np.uint32) for name in ("bos", "eos"))
    rows: list[tuple[str, str, str, int, int]] = []
    hashers = {f"{name}.bin": hashlib.sha256() for name in SPLIT_NAMES}
    with ExitStack() as stack:
        outputs = {name: stack.enter_context((folder / name).open("wb")) for name in hashers}
        for document in documents:
            ids = np.concatenate([prefix, document.ids, suffix])
            if len(ids) and int(ids.max()) >= vocab_size:
                raise ValueError(f"document {document.id}: token ids must be < vocab_size = {vocab_size}, got {int(ids.max())}")
            split = assign_split(document.cluster, val_fraction)
            data = ids.astype(dtype).tobytes()
            outputs[f"{split}.bin"].write(data)
            hashers[f"{split}.bin"].update(data)
            rows.append((document.id, document.cluster, split, len(ids), document.num_bytes))
    columns = list(zip(*rows, strict=True)) or [()] * len(INDEX_SCHEMA)
    pq.write_table(
        pa.table(
            [pa.array(column, arrow_type) for column, arrow_type in zip(columns, INDEX_SCHEMA.types, strict=True)], INDEX_SCHEMA
        ),
        folder / "index.parquet",
    )
    manifest = {
        "dtype": dtype.name,
        "vocab_size": vocab_size,
        "special_tokens": dict(special_tokens),
        "val_fraction": val_fraction,
        "digests": {
            **{name: hasher.hexdigest() for name, hasher in hashers.items()},
            "index.parquet": hashing.sha256_file(folder / "index.parquet"),
        },
    }
    if token_classes:
        manifest["token_classes"] = {name: ids.tolist() for name, ids in token_classes.items()}
    io.write_json(folder / "manifest.json", manifest)


def load_token_dataset(folder: Path) -> TokenDataset:
    """Memory-map a token dataset.

    Raises DataError if a file is missing or its size differs from the index.
    """
    manifest = _load_manifest(folder)
    try:
        index = pq.read_table(folder / "index.parquet", schema=INDEX_SCHEMA).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{(folder / 'index.parquet').as_posix()}: not readable: {error}; run tokenize again") from None
    return TokenDataset(
        _load_split(folder, "train", manifest, index),
        _load_split(folder, "val", manifest, index),
        manifest["vocab_size"],
        manifest["special_tokens"],
        {name: np.array(ids, np.int64) for name, ids in manifest.get("token_classes", {}).items()},
    )


def verify_digests(folder: Path) -> None:
    """Compare every file with the digest in the manifest.

    Raises DataError, naming the first file that differs.
    """
    for name, expected in _load_manifest(folder)["digests"].items():
        path = folder / name
        actual = hashing.sha256_file(path) if path.exists() else "no file"
        if actual != expected:
            raise DataError(f"{path.as_posix()}: digest must be {expected[:12]}, got {actual[:12]}; run tokenize again")


def _load_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"dtype", "vocab_size", "special_tokens", "digests"} - manifest.keys()
        if missing:
            raise ValueError(f"missing key {sorted(missing)[0]!r}")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path.as_posix()}: cannot load a token dataset: {error}; run tokenize again") from None
    return manifest


def _load_split(folder: Path, name: SplitName, manifest: dict[str, Any], index: dict[str, list[Any]]) -> DatasetSplit:
    indices = [i for i, split_name in enumerate(index["split"]) if split_name == name]
    lengths = np.array([index["tokens"][i] for i in indices], dtype=np.int64)
    doc_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    path = folder / f"{name}.bin"
    dtype = np.dtype(manifest["dtype"])
    num_bytes = path.stat().st_size if path.exists() else 0
    if not path.exists() or num_bytes != doc_offsets[-1] * dtype.itemsize:
        raise DataError(
            f"{path.as_posix()}: must hold {doc_offsets[-1]} tokens of {dtype}, got {num_bytes} bytes; run tokenize again"
        )
    ids = np.memmap(path, dtype, "r") if doc_offsets[-1] else np.zeros(0, dtype)
    doc_bytes = np.array([index["bytes"][i] for i in indices], dtype=np.int64)
    return DatasetSplit(ids, doc_offsets, [index["id"][i] for i in indices], doc_bytes, [index["cluster"][i] for i in indices])
