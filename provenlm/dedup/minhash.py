"""Find candidate pairs by MinHash with banding.

Broder 1997, "On the resemblance and containment of documents"; bands after Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", section 3.4. Only the hashes of the bands are stored: 8 bytes per band and record.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import BASE, Hashes, splitmix64

NUM_PERM = 128  # hash functions of a signature
MIN_HIT_PROBABILITY = 0.999  # of a pair exactly at the threshold
MAX_BUCKET = 48  # buckets up to this size are paired completely

_BASE, _SHIFT_32 = np.uint64(BASE), np.uint64(32)


class MinHasher:
    """Compute the band hashes of n-gram sets.

    The number of bands follows from the Jaccard threshold.

    The hash functions are fixed: they do not depend on the threshold.
    """

    def __init__(self, threshold: float) -> None:
        self.hashes_per_band = hashes_per_band_for(threshold)
        self.num_bands = NUM_PERM // self.hashes_per_band
        generator = rng.make_rng(0, "minhash")
        self._multipliers = generator.integers(0, 1 << 63, NUM_PERM, dtype=np.uint64) << np.uint64(1) | np.uint64(1)
        self._offsets = generator.integers(0, 1 << 63, NUM_PERM, dtype=np.uint64)

    def band_hashes(self, ngrams: Hashes) -> Hashes:
        """Hash each band of a non-empty set: uint64 (num_bands,).

        The band number is part of the hash, so hashes of different bands differ.
        """
        return _band_hashes(ngrams, self._multipliers, self._offsets, self.num_bands, self.hashes_per_band)


@jit
def _band_hashes(ngrams: Hashes, multipliers: Hashes, offsets: Hashes, num_bands: int, hashes_per_band: int) -> Hashes:
    minima = np.full(NUM_PERM, np.uint64(0xFFFFFFFFFFFFFFFF))
    for ngram in ngrams:
        for index in range(NUM_PERM):
            minima[index] = min(minima[index], multipliers[index] * ngram + offsets[index])
    band_hashes = np.empty(num_bands, np.uint64)
    for band in range(num_bands):
        value = np.uint64(band)
        for row in range(hashes_per_band):
            value = splitmix64(value + (minima[band * hashes_per_band + row] >> _SHIFT_32) * _BASE)
        band_hashes[band] = value
    return band_hashes


def detect_synthetic_duplicates(sets: Mapping[int, Hashes], threshold: float) -> list[bool]:
    """Test whether copies at the threshold share a band with their originals.

    Elements of each copy are replaced until its Jaccard similarity to the original equals `threshold`.
    """
    hasher, detected = MinHasher(threshold), list[bool]()
    for row, members in sets.items():
        generator, copy = rng.make_rng(0, "planted", row), members.copy()
        replaced = generator.choice(len(copy), int(len(copy) * (1 - threshold) / (1 + threshold)), replace=False)
        copy[replaced] = generator.integers(0, 1 << 63, len(replaced), dtype=np.uint64)
        detected.append(bool(np.any(hasher.band_hashes(members) == hasher.band_hashes(copy))))
    return detected


def hashes_per_band_for(threshold: float) -> int:
    """Choose the number of hashes per band for a Jaccard threshold.

    It is the largest with which a pair at `threshold` shares a band with MIN_HIT_PROBABILITY, for the fewest false candidates.
    """
    feasible = [
        hashes_per_band
        for hashes_per_band in (1, 2, 4, 8, 16)
        if 1 - (1 - threshold**hashes_per_band) ** (NUM_PERM // hashes_per_band) >= MIN_HIT_PROBABILITY
    ]
    return max(feasible, default=1)


def candidate_pairs(band_hashes: Hashes, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pair the rows of `band_hashes`, (rows, bands), that share a band.

    Returns int64 (pairs, 2), sorted and unique.

    In a bucket larger than MAX_BUCKET each record is paired only with the record of the lowest rank and with its neighbor in rank,
    so that a page repeated a million times costs two million pairs, not half a billion.
    """
    num_rows = max(1, len(band_hashes))
    encoded_pairs = np.zeros(0, np.int64)
    for band in range(band_hashes.shape[1] if len(band_hashes) else 0):
        order = np.lexsort((ranks, band_hashes[:, band]))
        starts = np.flatnonzero(np.diff(band_hashes[order, band], prepend=~band_hashes[order[:1], band]) != 0)
        sizes = np.diff(np.append(starts, num_rows))
        new_pairs = [encoded_pairs]
        for size in np.unique(sizes[sizes > 1]):
            buckets = order[starts[sizes == size][:, None] + np.arange(size)]
            left_index, right_index = _bucket_pairs(int(size))
            first, second = buckets[:, left_index].ravel(), buckets[:, right_index].ravel()
            new_pairs.append(np.minimum(first, second) * num_rows + np.maximum(first, second))
        encoded_pairs = np.unique(np.concatenate(new_pairs))
    return np.stack([encoded_pairs // num_rows, encoded_pairs % num_rows], axis=1)


def _bucket_pairs(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions within a bucket of `size` records that are paired."""
    if size <= MAX_BUCKET:
        first_index, second_index = np.triu_indices(size, 1)
        return first_index, second_index
    later = np.arange(1, size)
    return np.concatenate([np.zeros(size - 1, np.int64), later[:-1]]), np.concatenate([later, later[1:]])
