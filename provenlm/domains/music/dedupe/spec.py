"""Deduplicate scores by their melody, whatever its key and tempo.

Its n-grams are of intervals and of ratios of successive inter-onset intervals: a transposed or uniformly slower copy has the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from provenlm.core import ngram_hashing
from provenlm.core.interfaces import DedupeSpec
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.records import Record
from provenlm.domains.music.content.melody import melody_steps, score_skyline
from provenlm.domains.music.content.score import IntArray, read_score


@dataclass(frozen=True)
class MusicDedupeConfig:
    """Configure deduplication of scores.

    jaccard_threshold: similarity of n-gram sets from which on one of two scores is removed; above 1: exact duplicates only.
    containment_threshold: fraction of the smaller n-gram set in the other one from which on two scores are variants, which are both
        kept, in one split; above 1: no search. Of 20,000 random pairs of tunes none reached 0.58.
    ngram_notes: number of notes of an n-gram.
    """

    jaccard_threshold: float = 0.8
    containment_threshold: float = 0.6
    ngram_notes: int = 6

    def __post_init__(self) -> None:
        for name in ("jaccard_threshold", "containment_threshold"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.ngram_notes < 3:
            raise ValueError(f"ngram_notes must be >= 3, got {self.ngram_notes}")


def melody_of(record: Record) -> IntArray:
    """Return the encoded melody of a record."""
    return encode_melody(record.content)


@lru_cache(maxsize=2)  # called by `normalize` and by `ngram_hashes` for each record
def encode_melody(content: bytes) -> IntArray:
    """Return the encoded melody of a canonical MIDI file."""
    return melody_steps(*score_skyline(read_score(content)))


def ngram_hashes(config: MusicDedupeConfig) -> Callable[[Record], Hashes]:
    """Build the function that hashes the n-grams of a score's melody."""

    def hash_record(record: Record) -> Hashes:
        return ngram_hashing.hash_ngrams(melody_of(record).astype(np.uint64), config.ngram_notes - 1)

    return hash_record


def normalize(record: Record) -> bytes:
    """Return the intervals and rhythm of the melody.

    Records with equal ones are exact duplicates in any key and tempo.

    A melody of fewer than three notes is its content.
    """
    steps = melody_of(record)
    return steps.tobytes() if len(steps) else record.content


SPEC = DedupeSpec(
    MusicDedupeConfig,
    normalize,
    ngram_hashes,
    lambda config: config.jaccard_threshold,
    containment_threshold=lambda config: config.containment_threshold,
)
