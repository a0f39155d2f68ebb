"""Compare melodies with training pieces by patterns of six notes.

Key and tempo do not matter (after Yin et al. 2022).
"""

import numpy as np

from provenlm.core import ngram_hashing
from provenlm.core.ngram_hashing import Hashes
from provenlm.domains.music.content.melody import melody_steps, skyline
from provenlm.domains.music.content.score import NoteTable

NUM_NOTES = 6


def melody_hashes(notes: NoteTable) -> Hashes:
    """Hash the patterns of NUM_NOTES successive notes of the melody.

    A shorter melody has none.
    """
    steps = melody_steps(*skyline(notes))
    if len(steps) < NUM_NOTES - 1:
        return np.zeros(0, np.uint64)
    return ngram_hashing.sorted_unique(ngram_hashing.hash_ngrams(steps.astype(np.uint64), NUM_NOTES - 1))


def shared_ratio(notes: NoteTable, training_hashes: Hashes) -> float | None:
    """Return the fraction of the melody's patterns that occur in training.

    None without a pattern.
    """
    hashes = melody_hashes(notes)
    return float(np.isin(hashes, training_hashes).mean()) if len(hashes) else None
