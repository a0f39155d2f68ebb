"""Shingle sets in, pairs of records that are likely to be similar out: MinHash signatures cut into bands, equal bands paired.

Broder 1997, "On the resemblance and containment of documents"; bands after Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", section 3.4. Only the hashes of the bands are kept: 8 bytes a band and record.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.jit import compiled
from provenlm.core.ngram_hashing import BASE, Hashes, mixed

MINIMA = 128  # of a signature
SURE = 0.999  # the least chance that a pair at the threshold shares a band
WHOLE = 48  # in a bucket of equal bands up to this size every two records are paired

_BASE, _HALF = np.uint64(BASE), np.uint64(32)


class Sketcher:
    """Turns shingle sets into band keys. Chooses the bands for a threshold; its hash functions depend on nothing else."""

    def __init__(self, threshold: float) -> None:
        self.rows = rows_for(threshold)
        self.bands = MINIMA // self.rows
        random = rng.generator(0, "minhash")
        self._factor = random.integers(0, 1 << 63, MINIMA, dtype=np.uint64) << np.uint64(1) | np.uint64(1)
        self._summand = random.integers(0, 1 << 63, MINIMA, dtype=np.uint64)

    def keys(self, shingles: Hashes) -> Hashes:
        """One key a band, uint64 (bands,), of a set that is not empty; the keys of different bands never agree by design."""
        return _keys(shingles, self._factor, self._summand, self.bands, self.rows)


@compiled
def _keys(shingles: Hashes, factor: Hashes, summand: Hashes, bands: int, rows: int) -> Hashes:
    least = np.full(MINIMA, np.uint64(0xFFFFFFFFFFFFFFFF))
    for shingle in shingles:
        for place in range(MINIMA):
            least[place] = min(least[place], factor[place] * shingle + summand[place])
    keys = np.empty(bands, np.uint64)
    for band in range(bands):
        value = np.uint64(band)
        for row in range(rows):
            value = mixed(value + (least[band * rows + row] >> _HALF) * _BASE)
        keys[band] = value
    return keys


def planted(sets: Mapping[int, Hashes], threshold: float) -> list[bool]:
    """For a copy of each set, so much of it replaced that their similarity is just at `threshold`: whether the search would compare them."""
    sketcher, found = Sketcher(threshold), list[bool]()
    for row, members in sets.items():
        draw, copy = rng.generator(0, "planted", row), members.copy()
        changed = draw.choice(len(copy), int(len(copy) * (1 - threshold) / (1 + threshold)), replace=False)
        copy[changed] = draw.integers(0, 1 << 63, len(changed), dtype=np.uint64)
        found.append(bool(np.any(sketcher.keys(members) == sketcher.keys(copy))))
    return found


def rows_for(threshold: float) -> int:
    """The most rows a band (fewest false candidates) with which a pair at `threshold` still shares a band with chance `SURE`."""
    fitting = [rows for rows in (1, 2, 4, 8, 16) if 1 - (1 - threshold**rows) ** (MINIMA // rows) >= SURE]
    return max(fitting, default=1)


def candidates(keys: Hashes, rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of rows of `keys`, (rows, bands), that share a key of a band: int64 (pairs, 2), sorted, each once.

    In a bucket larger than `WHOLE` each record is paired with the one of the lowest rank and with its neighbour in rank alone, so
    that a page repeated a million times costs two million pairs, not half a billion.
    """
    count = max(1, len(keys))
    found = np.zeros(0, np.int64)
    for band in range(keys.shape[1] if len(keys) else 0):
        order = np.lexsort((rank, keys[:, band]))
        starts = np.flatnonzero(np.diff(keys[order, band], prepend=~keys[order[:1], band]) != 0)
        sizes = np.diff(np.append(starts, count))
        fresh = [found]
        for size in np.unique(sizes[sizes > 1]):
            buckets = order[starts[sizes == size][:, None] + np.arange(size)]
            left, right = _within(int(size))
            one, other = buckets[:, left].ravel(), buckets[:, right].ravel()
            fresh.append(np.minimum(one, other) * count + np.maximum(one, other))
        found = np.unique(np.concatenate(fresh))
    return np.stack([found // count, found % count], axis=1)


def _within(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of a bucket that are paired."""
    if size <= WHOLE:
        left, right = np.triu_indices(size, 1)
        return left, right
    others = np.arange(1, size)
    return np.concatenate([np.zeros(size - 1, np.int64), others[:-1]]), np.concatenate([others, others[1:]])
