"""Convert the notes of a score to seconds, and cut a score at a time."""

from dataclasses import dataclass

import numpy as np
import symusic
from numpy.typing import NDArray

from provenlm.evaluation.arrays import FloatArray, IntArray

DEFAULT_QUARTER_SECONDS = 0.5  # 120 quarter notes a minute, until the first tempo of a MIDI file


@dataclass(frozen=True)
class TimedNotes:
    """Hold notes sorted by onset, drums excepted; all arrays are (notes,)."""

    onset_seconds: FloatArray
    duration_seconds: FloatArray
    pitches: IntArray
    velocities: IntArray

    def __len__(self) -> int:
        return len(self.onset_seconds)

    @property
    def end_seconds(self) -> float:
        """Return when the last note ends."""
        return float((self.onset_seconds + self.duration_seconds).max(initial=0.0))


@dataclass(frozen=True)
class TempoMap:
    """Map ticks to seconds; tempo `i` begins at `ticks[i]`, which is `seconds[i]`."""

    ticks: FloatArray
    seconds: FloatArray
    seconds_per_tick: FloatArray

    def to_seconds(self, ticks: FloatArray) -> FloatArray:
        """Return the times of ticks in seconds."""
        index = np.searchsorted(self.ticks, ticks, side="right") - 1
        seconds: FloatArray = self.seconds[index] + (ticks - self.ticks[index]) * self.seconds_per_tick[index]
        return seconds

    def to_ticks(self, seconds: float) -> float:
        """Return the tick at a time in seconds."""
        index = int(np.searchsorted(self.seconds, seconds, side="right")) - 1
        return float(self.ticks[index] + (seconds - self.seconds[index]) / self.seconds_per_tick[index])


def tempo_map(score: symusic.Score) -> TempoMap:
    """Build the tempo map of a score; the last tempo of a tick counts."""
    changes = {0: DEFAULT_QUARTER_SECONDS}
    changes |= {int(tempo.time): tempo.mspq / 1e6 for tempo in sorted(score.tempos, key=lambda tempo: tempo.time) if tempo.mspq > 0}
    ticks = np.array(list(changes), np.float64)
    seconds_per_tick = np.array(list(changes.values()), np.float64) / score.tpq
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * seconds_per_tick[:-1])])
    return TempoMap(ticks, seconds, seconds_per_tick)


def timed_notes(score: symusic.Score) -> TimedNotes:
    """Return the notes of a score in seconds."""
    tempos = tempo_map(score)
    columns: list[list[NDArray[np.generic]]] = [[np.zeros(0)] for _ in range(4)]
    for track in score.tracks:
        if not track.is_drum and len(track.notes):
            notes = track.notes.numpy()
            onsets = tempos.to_seconds(notes["time"].astype(np.float64))
            ends = tempos.to_seconds(notes["time"].astype(np.float64) + notes["duration"])
            for column, values in zip(columns, (onsets, ends - onsets, notes["pitch"], notes["velocity"]), strict=True):
                column.append(values)
    onset_seconds, duration_seconds, pitches, velocities = (np.concatenate(column) for column in columns)
    order = np.lexsort((pitches, onset_seconds))
    return TimedNotes(
        onset_seconds[order], duration_seconds[order], pitches[order].astype(np.int64), velocities[order].astype(np.int64)
    )


def cut_score(score: symusic.Score, max_seconds: float) -> symusic.Score:
    """Return the first `max_seconds` of a score.

    Its notes begin before that time and end there at the latest.
    """
    end = round(tempo_map(score).to_ticks(max_seconds))
    cut = score.copy()
    for track in cut.tracks:
        notes = [note for note in track.notes if note.time < end]
        for note in notes:
            note.duration = min(note.duration, end - note.time)
        track.notes = symusic.Track(notes=notes).notes
    return cut
