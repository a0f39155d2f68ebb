"""Token arrays on disk: `train.bin` and `val.bin`, flat and memory-mapped, with an index back to the records.

A document is one record's ids, with the codec's `bos` before and its `eos` behind them where it has such tokens.
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
from provenlm.core.errors import UserError

Side = Literal["train", "val"]
SIDES: tuple[Side, Side] = ("train", "val")
COLUMNS = pa.schema(
    [("id", pa.string()), ("cluster", pa.string()), ("split", pa.string()), ("tokens", pa.int64()), ("bytes", pa.int64())]
)


@dataclass(frozen=True)
class Split:
    """One side of the split. `ids`: uint16 or uint32, (tokens,); `starts`: int64, (documents + 1,), offsets into `ids`."""

    ids: NDArray[Any]
    starts: NDArray[np.int64]
    record_ids: list[str]
    bytes: NDArray[np.int64]  # of each document's body
    clusters: list[str] = field(default_factory=list)  # of near duplicates, one a document


@dataclass(frozen=True)
class Tokens:
    """An encoded corpus: both splits, the size of the vocabulary, and the special ids (`pad`, `unk`, `bos`, `eos` where they exist)."""

    train: Split
    val: Split
    vocabulary: int
    special: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Document:
    """A record to write: its id, its duplicate cluster, the bytes of its body, and its ids without special tokens."""

    id: str
    cluster: str
    bytes: int
    ids: NDArray[np.uint32]


def side(cluster: str, held_out: float) -> Side:
    """The side of every record of `cluster`, for good: it depends on the cluster's name and `held_out` (0 to 1) alone."""
    return "val" if rng.share_of(cluster, rng.SPLIT) < held_out else "train"


def write(folder: Path, documents: Iterable[Document], vocabulary: int, special: Mapping[str, int], held_out: float) -> None:
    """Write both splits, their index and a manifest with the digests of all three into `folder`, one document in memory at a time.

    Ids are little-endian uint16, uint32 above 65,536 of them; ValueError for an id outside the vocabulary.
    """
    dtype = np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")
    before, behind = (np.array([special[name]] if name in special else [], np.uint32) for name in ("bos", "eos"))
    rows: list[tuple[str, str, str, int, int]] = []
    digests = {f"{name}.bin": hashlib.sha256() for name in SIDES}
    with ExitStack() as stack:
        outs = {name: stack.enter_context((folder / name).open("wb")) for name in digests}
        for document in documents:
            ids = np.concatenate([before, document.ids, behind])
            if len(ids) and int(ids.max()) >= vocabulary:
                raise ValueError(f"document {document.id}: id {int(ids.max())} of a vocabulary of {vocabulary}")
            split = side(document.cluster, held_out)
            data = ids.astype(dtype).tobytes()
            outs[f"{split}.bin"].write(data)
            digests[f"{split}.bin"].update(data)
            rows.append((document.id, document.cluster, split, len(ids), document.bytes))
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    pq.write_table(
        pa.table([pa.array(column, kind) for column, kind in zip(columns, COLUMNS.types, strict=True)], COLUMNS),
        folder / "index.parquet",
    )
    manifest = {
        "dtype": dtype.name,
        "vocabulary": vocabulary,
        "special": dict(special),
        "held_out": held_out,
        "digests": {
            **{name: made.hexdigest() for name, made in digests.items()},
            "index.parquet": hashing.of_file(folder / "index.parquet"),
        },
    }
    io.write_json(folder / "manifest.json", manifest)


def read(folder: Path) -> Tokens:
    """Memory-map what `write` left in `folder`. UserError if a file is missing or not as long as the index says."""
    manifest = _manifest(folder)
    try:
        index = pq.read_table(folder / "index.parquet", schema=COLUMNS).to_pydict()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{(folder / 'index.parquet').as_posix()}: not readable: {error}; run tokenize again") from None
    return Tokens(
        _split(folder, "train", manifest, index),
        _split(folder, "val", manifest, index),
        manifest["vocabulary"],
        manifest["special"],
    )


def verify(folder: Path) -> None:
    """Compare every file of `folder` with the digest in its manifest. UserError names the first that differs."""
    for name, expected in _manifest(folder)["digests"].items():
        path = folder / name
        found = hashing.of_file(path) if path.exists() else "no file"
        if found != expected:
            raise UserError(f"{path.as_posix()}: damaged: digest {found[:12]}, written as {expected[:12]}; run tokenize again")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"dtype", "vocabulary", "special", "digests"} - manifest.keys()
        if missing:
            raise ValueError(f"no {', '.join(sorted(missing))}")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path.as_posix()}: not readable as tokens: {error}; run tokenize again") from None
    return manifest


def _split(folder: Path, name: Side, manifest: dict[str, Any], index: dict[str, list[Any]]) -> Split:
    rows = [i for i, of in enumerate(index["split"]) if of == name]
    lengths = np.array([index["tokens"][i] for i in rows], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    path = folder / f"{name}.bin"
    dtype = np.dtype(manifest["dtype"])
    if not path.exists() or path.stat().st_size != starts[-1] * dtype.itemsize:
        raise UserError(f"{path.as_posix()}: should hold {starts[-1]} tokens of {dtype}; run tokenize again")
    ids = np.memmap(path, dtype, "r") if starts[-1] else np.zeros(0, dtype)
    sizes = np.array([index["bytes"][i] for i in rows], dtype=np.int64)
    return Split(ids, starts, [index["id"][i] for i in rows], sizes, [index["cluster"][i] for i in rows])
