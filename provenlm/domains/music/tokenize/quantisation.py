"""Configure the tokens of scores, and quantise scores to what they can express."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import symusic

from provenlm.domains.music.content.score import NoteTable, cut_repeated, note_table

STEPS_PER_QUARTER = 12  # 16th notes and triplets
MAX_DURATION_STEPS = 6 * STEPS_PER_QUARTER  # 12 beats of an eighth note
TIME_SIGNATURES = {4: [1, 2, 3, 4, 5, 6, 7, 8], 8: [1, 2, 3, 4, 5, 6, 7, 9, 12]}
DEFAULT_TIME_SIGNATURE = (4, 4)

Scheme = Literal["REMI", "TSD", "MIDILike", "Octuple", "CPWord"]


@dataclass(frozen=True)
class MidiTokenizerConfig:
    """Configure the tokens.

    scheme: REMI (Huang and Yang 2020), TSD, MIDILike (Oore et al. 2018), or one with compound tokens, which are flattened: Octuple
        (Zeng et al. 2021), with bar, position, pitch and duration for each note, and CPWord (Hsiao et al. 2021).
    lowest_pitch, highest_pitch: other notes are dropped. num_velocities, num_tempos: 0 for no such tokens.
    programs: encode the instrument of each note. max_bars: number of bars that Octuple, which numbers them, has tokens for; later notes
        are dropped.
    """

    scheme: Scheme = "REMI"
    lowest_pitch: int = 21
    highest_pitch: int = 108
    num_velocities: int = 0
    num_tempos: int = 0
    programs: bool = False
    max_bars: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.lowest_pitch < self.highest_pitch <= 127:
            raise ValueError(
                f"lowest_pitch must be >= 0 and < highest_pitch <= 127, got {self.lowest_pitch} and {self.highest_pitch}"
            )
        if self.max_bars < 1:
            raise ValueError(f"max_bars must be >= 1, got {self.max_bars}")
        for name in ("num_velocities", "num_tempos"):
            if not 0 <= getattr(self, name) <= 127:
                raise ValueError(f"{name} must be from 0 to 127, got {getattr(self, name)}")


def quantise_notes(score: symusic.Score, config: MidiTokenizerConfig) -> NoteTable:
    """Return the notes that are encoded.

    They are in the range, none longer than MAX_DURATION_STEPS, each pitch once at a time.
    """
    notes = note_table(score, STEPS_PER_QUARTER)
    notes = notes.select((notes.pitches >= config.lowest_pitch) & (notes.pitches <= config.highest_pitch))
    if config.scheme == "Octuple":
        notes = notes.select(notes.onsets < bar_start(score, config.max_bars))
    keys = notes.pitches + 128 * notes.programs if config.programs else notes.pitches
    durations = np.minimum(cut_repeated(notes.onsets, keys, notes.durations), MAX_DURATION_STEPS)
    programs = notes.programs if config.programs else np.zeros_like(notes.programs)
    columns = (notes.onsets, notes.pitches, durations, notes.velocities, programs)
    return NoteTable(*columns, STEPS_PER_QUARTER).select(durations > 0)


def quantise_time_signatures(score: symusic.Score) -> list[tuple[int, int, int]]:
    """Return (step, numerator, denominator) of supported time signatures.

    Their bars are of equal length, and each begins at the start of a bar.
    """
    signatures: dict[int, tuple[int, int]] = {0: DEFAULT_TIME_SIGNATURE}
    start, bar_steps = 0, _bar_steps(DEFAULT_TIME_SIGNATURE)
    for signature in sorted(score.time_signatures, key=lambda item: item.time):
        supported = supported_time_signature(signature.numerator, signature.denominator)
        step = round(signature.time * STEPS_PER_QUARTER / score.tpq)
        start += -(-max(0, step - start) // bar_steps) * bar_steps
        signatures[start], bar_steps = supported, _bar_steps(supported)
    ordered = sorted(signatures.items())
    changes = [item for index, item in enumerate(ordered) if index == 0 or item[1] != ordered[index - 1][1]]
    return [(step, *signature) for step, signature in changes]


def bar_start(score: symusic.Score, bar: int) -> int:
    """Return the step at which a bar begins; the first one is bar 0."""
    signatures = quantise_time_signatures(score)
    num_bars = 0
    for (start, *signature), (end, *_) in pairwise(signatures):
        bar_steps = _bar_steps((signature[0], signature[1]))
        if num_bars + (end - start) // bar_steps > bar:
            return start + (bar - num_bars) * bar_steps
        num_bars += (end - start) // bar_steps
    start, numerator, denominator = signatures[-1]
    return start + (bar - num_bars) * _bar_steps((numerator, denominator))


def supported_time_signature(numerator: int, denominator: int) -> tuple[int, int]:
    """Return a supported time signature with bars of the same length, else 4/4."""
    for target in (denominator, 4, 8):
        scaled = numerator * target
        if denominator > 0 and scaled % denominator == 0 and scaled // denominator in TIME_SIGNATURES.get(target, ()):
            return scaled // denominator, target
    return DEFAULT_TIME_SIGNATURE


def _bar_steps(signature: tuple[int, int]) -> int:
    return signature[0] * 4 * STEPS_PER_QUARTER // signature[1]
