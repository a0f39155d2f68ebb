"""Fit an n-gram model with Witten-Bell backoff.

It is the baseline that a trained model of music must beat.
P(w | h) = (count(h w) + distinct(h) P(w | shorter h)) / (count(h) + distinct(h)), down to the uniform distribution (Witten and Bell
1991). Contexts do not cross documents.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.core.ngram_hashing import BASE, Hashes, splitmix64_array
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class CountTable:
    """Hold how often each hash occurs; both arrays are sorted by hash."""

    hashes: Hashes
    counts: IntArray

    def look_up(self, hashes: Hashes) -> IntArray:
        """Return the count of each hash; 0 if it does not occur."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.int64)
        index = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[index] == hashes, self.counts[index], 0)


@dataclass(frozen=True)
class BackoffModel:
    """Hold the counts for every context length from 0.

    They count n-grams, contexts, and distinct tokens after a context.
    """

    vocab_size: int
    ngrams: tuple[CountTable, ...]
    contexts: tuple[CountTable, ...]
    distinct: tuple[CountTable, ...]

    def nats(self, split: DatasetSplit, order: int) -> FloatArray:
        """Return -ln p of every token of a split but the first of each document.

        Contexts have up to `order` - 1 tokens.
        """
        probability = np.full(len(split.ids), 1 / self.vocab_size)
        for length in range(order):
            context_hashes, ngram_hashes, positions = hash_contexts(split, length)
            count = self.ngrams[length].look_up(ngram_hashes)
            total, distinct = self.contexts[length].look_up(context_hashes), self.distinct[length].look_up(context_hashes)
            mixture = (count + distinct * probability[positions]) / np.maximum(total + distinct, 1)
            probability[positions] = np.where(total > 0, mixture, probability[positions])
        nats: FloatArray = -np.log(probability[is_target(split)])
        return nats


def fit_backoff(split: DatasetSplit, vocab_size: int, order: int) -> BackoffModel:
    """Count the n-grams of a split up to `order` tokens.

    ValueError if it has no document of two tokens.
    """
    if not is_target(split).any():
        raise ValueError("an n-gram model needs at least one document of two tokens to count")
    ngrams, contexts, distinct = [], [], []
    for length in range(order):
        context_hashes, ngram_hashes, _ = hash_contexts(split, length)
        contexts.append(_count(context_hashes))
        unique, first = np.unique(ngram_hashes, return_index=True)
        ngrams.append(CountTable(unique, _count(ngram_hashes).counts))
        distinct.append(_count(context_hashes[first]))
    return BackoffModel(vocab_size, tuple(ngrams), tuple(contexts), tuple(distinct))


def hash_contexts(split: DatasetSplit, length: int) -> tuple[Hashes, Hashes, IntArray]:
    """Hash the `length` tokens before each target, without and with the target.

    Returns both hashes and the positions of the targets.
    Targets with fewer tokens before them in their document are left out.
    """
    ids = np.asarray(split.ids).astype(np.uint64)
    positions = np.flatnonzero(is_target(split) & (_position_in_document(split) >= length)).astype(np.int64)
    hashes = np.full(len(positions), np.uint64(length + 1))
    for offset in range(length, 0, -1):
        hashes = splitmix64_array(hashes * np.uint64(BASE) + ids[positions - offset])
    return hashes, splitmix64_array(hashes * np.uint64(BASE) + ids[positions]), positions


def is_target(split: DatasetSplit) -> NDArray[np.bool_]:
    """Mark every token but the first of each document."""
    return _position_in_document(split) > 0


def _position_in_document(split: DatasetSplit) -> IntArray:
    starts, lengths = split.doc_offsets[:-1], np.diff(split.doc_offsets)
    return np.arange(int(split.doc_offsets[-1]), dtype=np.int64) - np.repeat(starts, lengths)


def _count(hashes: NDArray[Any]) -> CountTable:
    unique, counts = np.unique(hashes, return_counts=True)
    return CountTable(unique, counts.astype(np.int64))
