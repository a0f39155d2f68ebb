"""Reduce a score to its melody, encoded so that key and tempo do not matter.

The melody is the skyline: the highest note at each onset. It is encoded by intervals and by ratios of successive inter-onset intervals.
"""

import numpy as np

from provenlm.domains.music.content.score import IntArray, NoteTable

MAX_INTERVAL = 24  # semitones
MAX_LOG_RATIO = 6  # half octaves of tempo


def skyline(notes: NoteTable) -> tuple[IntArray, IntArray]:
    """Return onsets in steps and pitches of the highest note at each onset."""
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
