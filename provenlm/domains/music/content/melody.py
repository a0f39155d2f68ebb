"""Reduce a score to its melody, encoded so that key and tempo do not matter.

The melody is the skyline: the highest note at each onset. It is encoded by intervals and by ratios of successive inter-onset intervals.
Nothing is rounded to a grid, because a slower copy would be rounded differently.
"""

import numpy as np
import symusic

from provenlm.domains.music.content.score import IntArray, NoteTable

MAX_INTERVAL = 24  # semitones
MAX_LOG_RATIO = 6  # half octaves of tempo
CHORD_FRACTION = 1 / 6
NUM_PITCHES = 128


def skyline(notes: NoteTable) -> tuple[IntArray, IntArray]:
    """Return onsets in steps and pitches of the highest note of each chord."""
    return _highest(notes.onsets, notes.pitches)


def score_skyline(score: symusic.Score) -> tuple[IntArray, IntArray]:
    """Return the skyline of a score without drums, with onsets in ticks."""
    columns = [track.notes.numpy() for track in score.tracks if not track.is_drum and len(track.notes)]
    codes = [notes["time"].astype(np.int64) * NUM_PITCHES + notes["pitch"] for notes in columns]
    ordered = np.sort(np.concatenate([*codes, np.zeros(0, np.int64)]))
    return _highest(ordered // NUM_PITCHES, ordered % NUM_PITCHES)


def _highest(onsets: IntArray, pitches: IntArray) -> tuple[IntArray, IntArray]:
    """Return onset and highest pitch of each chord of notes in order of their onsets.

    Notes that begin within CHORD_FRACTION of the mean distance of onsets are one chord: players do not strike them at once.
    """
    if not len(onsets):
        return onsets, pitches
    distances = onsets[1:] - onsets[:-1]
    tolerance = CHORD_FRACTION * (onsets[-1] - onsets[0]) / max(1, np.count_nonzero(distances))
    starts = np.append(0, np.flatnonzero(distances > tolerance) + 1)
    return onsets[starts], np.maximum.reduceat(pitches, starts)


def melody_steps(onsets: IntArray, pitches: IntArray) -> IntArray:
    """Encode each note from the third on as one number.

    It holds interval and rounded 2 log2 of the ratio of inter-onset intervals.
    """
    if len(onsets) < 3:
        return np.zeros(0, np.int64)
    intervals = np.minimum(np.maximum(pitches[2:] - pitches[1:-1], -MAX_INTERVAL), MAX_INTERVAL)
    log_distances = 2 * np.log2(np.maximum(onsets[1:] - onsets[:-1], 1))
    log_ratios = np.rint(log_distances[1:] - log_distances[:-1])
    codes = np.minimum(np.maximum(log_ratios, -MAX_LOG_RATIO), MAX_LOG_RATIO).astype(np.int64)
    steps: IntArray = (intervals + MAX_INTERVAL) * (2 * MAX_LOG_RATIO + 1) + codes + MAX_LOG_RATIO
    return steps
