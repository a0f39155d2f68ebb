"""Measure the notes of a score on a grid of 16th notes.

The metrics are those of MusPy (Dong et al. 2020) and of Yang and Lerch (2020), vectorised.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from provenlm.domains.music.content.score import NoteTable

STEPS_PER_QUARTER = 4
STEPS_PER_BAR = 16  # four quarter notes, whatever the time signature: a fixed window keeps pieces comparable
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
SCALES = np.array([[(pitch - root) % 12 in MAJOR_SCALE for pitch in range(12)] for root in range(12)], np.float64)

METRICS: Mapping[str, str] = {
    "pitch_entropy": "Entropy of the pitches in bits",
    "pitch_class_entropy": "Entropy of the pitch classes in bits",
    "num_pitch_classes": "Number of distinct pitch classes",
    "pitch_range": "Highest minus lowest pitch in semitones",
    "scale_consistency": "Largest fraction of notes that lie in a single diatonic scale",
    "polyphony": "Mean number of notes that sound at steps with at least one note",
    "empty_beat_ratio": "Fraction of quarter-note beats without a sounding note",
    "groove_consistency": "1 minus the mean distance of the onset patterns of successive bars",
    "notes_per_beat": "Number of notes per quarter note",
    "mean_ioi": "Mean distance of successive onsets in quarter notes",
    "mean_duration": "Mean note duration in quarter notes",
}


def measure_notes(notes: NoteTable) -> dict[str, float]:
    """Return METRICS of at least one note.

    `notes` has STEPS_PER_QUARTER steps in a quarter note. Raises ValueError for none.
    """
    if not len(notes) or notes.steps_per_quarter != STEPS_PER_QUARTER:
        raise ValueError(
            f"notes must be at least one on a grid of {STEPS_PER_QUARTER} steps, got {len(notes)} on {notes.steps_per_quarter}"
        )
    num_steps = notes.num_steps
    class_counts = np.bincount(notes.pitches % 12, minlength=12)
    changes = np.zeros(num_steps + 1, np.int64)
    np.add.at(changes, notes.onsets, 1)
    np.add.at(changes, notes.onsets + notes.durations, -1)
    sounding = changes.cumsum()[:num_steps]
    has_sound = np.zeros(-(-num_steps // STEPS_PER_QUARTER), np.bool_)
    has_sound[np.flatnonzero(sounding) // STEPS_PER_QUARTER] = True
    onsets = np.unique(notes.onsets)
    return {
        "pitch_entropy": _entropy(np.bincount(notes.pitches) / len(notes)),
        "pitch_class_entropy": _entropy(class_counts / len(notes)),
        "num_pitch_classes": float(np.count_nonzero(class_counts)),
        "pitch_range": float(notes.pitches.max() - notes.pitches.min()),
        "scale_consistency": float((SCALES @ class_counts).max()) / len(notes),
        "polyphony": float(sounding[sounding > 0].mean()),
        "empty_beat_ratio": float(1 - has_sound.mean()),
        "groove_consistency": _groove_consistency(onsets, num_steps),
        "notes_per_beat": len(notes) * STEPS_PER_QUARTER / num_steps,
        "mean_ioi": float(np.diff(onsets).mean()) / STEPS_PER_QUARTER if len(onsets) > 1 else 0.0,
        "mean_duration": float(notes.durations.mean()) / STEPS_PER_QUARTER,
    }


def duplicated_note_ratio(notes: NoteTable) -> float:
    """Return the fraction of notes with onset and pitch of a note before them."""
    return 1 - len(np.unique(notes.onsets * 128 + notes.pitches)) / max(1, len(notes))


def repeated_bar_ratio(notes: NoteTable) -> float:
    """Return the fraction of bars with notes that repeat an earlier bar.

    They have the same pitches at the same positions.
    """
    bar = notes.onsets // STEPS_PER_BAR
    patterns = [segment.tobytes() for segment in _segments(bar, notes.onsets % STEPS_PER_BAR * 128 + notes.pitches)]
    return 1 - len(set(patterns)) / max(1, len(patterns))


def _segments(bar: NDArray[np.int64], codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    if not len(bar):
        return []
    order = np.lexsort((codes, bar))
    return np.split(codes[order], np.flatnonzero(np.diff(bar[order])) + 1)


def _entropy(probabilities: NDArray[np.float64]) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log2(positive)).sum()) + 0.0


def _groove_consistency(onsets: NDArray[np.int64], num_steps: int) -> float:
    """Compare onset patterns of successive bars; 1 for a single bar."""
    num_bars = -(-num_steps // STEPS_PER_BAR)
    if num_bars < 2:
        return 1.0
    pattern = np.zeros(num_bars * STEPS_PER_BAR, np.int64)
    pattern[onsets] = 1
    distances = np.abs(np.diff(pattern.reshape(num_bars, STEPS_PER_BAR), axis=0)).sum(1)
    return float(1 - distances.mean() / STEPS_PER_BAR)
