"""Read and write the content of a music record: a canonical Standard MIDI File.

Canonical: 480 ticks per quarter note; notes, programs, tempos, time and key signatures only; tracks without notes are removed.
"""

from dataclasses import dataclass

import numpy as np
import symusic
from numpy.typing import NDArray

from provenlm.core.errors import DataError

MEDIA_TYPE = "audio/midi"
TICKS_PER_QUARTER = 480
IntArray = NDArray[np.int64]
# what the C++ of symusic raises for a damaged file; MemoryError and errors of our own calls pass
SYMUSIC_ERRORS = (RuntimeError, ValueError, IndexError, OverflowError)


@dataclass(frozen=True)
class NoteTable:
    """Hold the notes of a score without drums, sorted by onset and pitch.

    All arrays are int64 (notes,).

    Onsets and durations count steps, `steps_per_quarter` in a quarter note.
    """

    onsets: IntArray
    pitches: IntArray
    durations: IntArray
    velocities: IntArray
    programs: IntArray
    steps_per_quarter: int

    def __len__(self) -> int:
        return len(self.onsets)

    @property
    def num_steps(self) -> int:
        """Return the step at which the last note ends."""
        return int((self.onsets + self.durations).max(initial=0))

    def select(self, mask_or_order: NDArray[np.bool_] | IntArray) -> "NoteTable":
        """Return some of the notes, or all in another order."""
        columns = (self.onsets, self.pitches, self.durations, self.velocities, self.programs)
        onsets, pitches, durations, velocities, programs = (column[mask_or_order] for column in columns)
        return NoteTable(onsets, pitches, durations, velocities, programs, self.steps_per_quarter)


def read_score(content: bytes) -> symusic.Score:
    """Parse a canonical MIDI file. Raises DataError if it is damaged."""
    try:
        return symusic.Score.from_midi(content)
    except SYMUSIC_ERRORS as error:
        raise DataError(f"content must be a MIDI file, got {len(content)} bytes that symusic cannot read: {error}") from None


def write_score(score: symusic.Score) -> bytes:
    """Return the canonical MIDI file of a score."""
    source = score if score.tpq == TICKS_PER_QUARTER else score.resample(TICKS_PER_QUARTER, min_dur=1)
    canonical = symusic.Score(TICKS_PER_QUARTER)
    for track in source.tracks:
        if len(track.notes):
            copy = symusic.Track(program=track.program, is_drum=track.is_drum)
            notes = track.notes.numpy()
            table = np.stack([notes[name].astype(np.int64) for name in ("time", "pitch", "duration", "velocity")])
            order = np.lexsort((-table[2], table[1], table[0]))
            time, pitch, duration, velocity = table[:, order]
            duration = cut_repeated(time, pitch, duration)
            sounding = (duration > 0) & (velocity > 0)
            columns = (time[sounding], duration[sounding], pitch[sounding], velocity[sounding])
            types = (np.int32, np.int32, np.int8, np.int8)
            copy.notes = symusic.Note.from_numpy(*(column.astype(kind) for column, kind in zip(columns, types, strict=True)))
            canonical.tracks.append(copy)
    canonical.tempos = source.tempos
    canonical.time_signatures = source.time_signatures
    canonical.key_signatures = source.key_signatures
    return bytes(canonical.dumps_midi())


def cut_repeated(onsets: IntArray, pitches: IntArray, durations: IntArray) -> IntArray:
    """Cut each note where the next note of its pitch begins.

    That is what a MIDI channel does; the duration is 0 for a note that another note hides.

    The notes are sorted by onset, then pitch, then decreasing duration.
    """
    order = np.lexsort((np.arange(len(onsets)), pitches))
    is_hidden = np.zeros(len(onsets), np.bool_)
    is_hidden[order[1:][(np.diff(pitches[order]) == 0) & (np.diff(onsets[order]) == 0)]] = True
    order = order[~is_hidden[order]]
    next_onset = np.full(len(onsets), np.iinfo(np.int64).max)
    is_repeated = np.diff(pitches[order]) == 0
    next_onset[order[:-1][is_repeated]] = onsets[order[1:][is_repeated]]
    return np.where(is_hidden, 0, np.minimum(durations, next_onset - onsets))


def note_table(score: symusic.Score, steps_per_quarter: int) -> NoteTable:
    """Return the notes of a score with onsets and ends rounded to steps.

    Drums are left out; no note is shorter than a step.
    """
    columns: list[list[IntArray]] = [[], [], [], [], []]
    for track in score.tracks:
        if track.is_drum or not len(track.notes):
            continue
        notes = track.notes.numpy()
        time, duration = notes["time"].astype(np.int64), notes["duration"].astype(np.int64)
        onset = _to_steps(time, score.tpq, steps_per_quarter)
        end = _to_steps(time + duration, score.tpq, steps_per_quarter)
        values = (onset, notes["pitch"].astype(np.int64), np.maximum(end - onset, 1), notes["velocity"].astype(np.int64))
        for column, value in zip(columns, (*values, np.full(len(onset), track.program, np.int64)), strict=True):
            column.append(value)
    onsets, pitches, durations, velocities, programs = (
        np.concatenate(column) if column else np.zeros(0, np.int64) for column in columns
    )
    order = np.lexsort((-durations, pitches, onsets))
    return NoteTable(onsets, pitches, durations, velocities, programs, steps_per_quarter).select(order)


def _to_steps(ticks: IntArray, ticks_per_quarter: int, steps_per_quarter: int) -> IntArray:
    """Round ticks to the nearest step, halves up."""
    steps: IntArray = (2 * ticks * steps_per_quarter + ticks_per_quarter) // (2 * ticks_per_quarter)
    return steps
