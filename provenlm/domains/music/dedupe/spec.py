"""Deduplicate scores by their melody, whatever its key and tempo.

The melody is the skyline: the highest note at each onset. Its n-grams are of intervals and of ratios of successive inter-onset
intervals, so that a transposed or uniformly slower copy has the same n-grams.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from provenlm.core import ngram_hashing
from provenlm.core.interfaces import DedupeSpec
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.records import Record
from provenlm.domains.music.content.score import IntArray, note_table, read_score

STEPS_PER_QUARTER = 12  # 16th notes and triplets
MAX_INTERVAL = 24  # semitones
MAX_LOG_RATIO = 6  # half octaves of tempo


@dataclass(frozen=True)
class MusicDedupeConfig:
    """Configure deduplication of scores.

    jaccard_threshold: similarity of n-gram sets from which on two scores are near-duplicates; above 1: exact duplicates only.
    ngram_notes: number of notes of an n-gram.
    """

    jaccard_threshold: float = 0.5
    ngram_notes: int = 6

    def __post_init__(self) -> None:
        if not self.jaccard_threshold > 0:
            raise ValueError(f"jaccard_threshold must be > 0, got {self.jaccard_threshold}")
        if self.ngram_notes < 3:
            raise ValueError(f"ngram_notes must be >= 3, got {self.ngram_notes}")


def skyline(record: Record) -> tuple[IntArray, IntArray]:
    """Return onsets in steps and pitches of the highest note at each onset."""
    notes = note_table(read_score(record.content), STEPS_PER_QUARTER)
    is_highest = np.append(np.diff(notes.onsets) != 0, True)[: len(notes)]  # the notes are sorted by onset, then pitch
    return notes.onsets[is_highest], notes.pitches[is_highest]


def melody_steps(onsets: IntArray, pitches: IntArray) -> IntArray:
    """Encode each note from the third on as one number: interval and rounded 2 log2 of the ratio of inter-onset intervals."""
    if len(onsets) < 3:
        return np.zeros(0, np.int64)
    intervals = np.clip(np.diff(pitches)[1:], -MAX_INTERVAL, MAX_INTERVAL)
    distances = np.maximum(np.diff(onsets), 1)
    log_ratios = np.clip(np.rint(2 * np.log2(distances[1:] / distances[:-1])), -MAX_LOG_RATIO, MAX_LOG_RATIO).astype(np.int64)
    steps: IntArray = (intervals + MAX_INTERVAL) * (2 * MAX_LOG_RATIO + 1) + log_ratios + MAX_LOG_RATIO
    return steps


def ngram_hashes(config: MusicDedupeConfig) -> Callable[[Record], Hashes]:
    """Build the function that hashes the n-grams of a score's melody."""

    def hash_record(record: Record) -> Hashes:
        return ngram_hashing.hash_ngrams(melody_steps(*skyline(record)).astype(np.uint64), config.ngram_notes - 1)

    return hash_record


def normalize(record: Record) -> bytes:
    """Return the intervals and rhythm of the melody; records with equal ones are exact duplicates in any key and tempo.

    A melody of fewer than three notes is its content.
    """
    steps = melody_steps(*skyline(record))
    return steps.tobytes() if len(steps) else record.content


SPEC = DedupeSpec(MusicDedupeConfig, normalize, ngram_hashes, lambda config: config.jaccard_threshold)
