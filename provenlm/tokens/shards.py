"""Token arrays on disk: `train.bin` and `val.bin`, flat and memory-mapped, with an index back to the records.

A document is one record's ids, with the codec's `bos` before and its `eos` behind them where it has such tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provenlm.core.errors import UserError


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


def read(folder: Path) -> Tokens:
    """Memory-map what `write` left in `folder`. UserError if a file is missing or shorter than the index says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        index = pq.read_table(folder / "index.parquet").to_pydict()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.as_posix()}: not readable as tokens: {error}") from None
    return Tokens(
        _split(folder, "train", manifest, index),
        _split(folder, "val", manifest, index),
        manifest["vocabulary"],
        manifest["special"],
    )


def _split(folder: Path, side: Literal["train", "val"], manifest: dict[str, Any], index: dict[str, list[Any]]) -> Split:
    rows = [i for i, of in enumerate(index["split"]) if of == side]
    lengths = np.array([index["tokens"][i] for i in rows], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    path = folder / f"{side}.bin"
    dtype = np.dtype(manifest["dtype"])
    if not path.exists() or path.stat().st_size != starts[-1] * dtype.itemsize:
        raise UserError(f"{path.as_posix()}: should hold {starts[-1]} tokens of {dtype}; run tokenize again")
    ids = np.memmap(path, dtype, "r") if starts[-1] else np.zeros(0, dtype)
    sizes = np.array([index["bytes"][i] for i in rows], dtype=np.int64)
    return Split(ids, starts, [index["id"][i] for i in rows], sizes, [index["cluster"][i] for i in rows])
