"""Synthesize notes as sums of harmonics, without any package or file beside numpy.

Equal notes give equal samples, so that tests and pages need no sound font.
"""

import numpy as np
from numpy.typing import NDArray

from provenlm.domains.music.evaluate.render.timed_notes import TimedNotes

CONCERT_PITCH = 440.0  # Hz of pitch 69
NUM_HARMONICS = 6
HARMONIC_ROLLOFF = 1.6  # the amplitude of harmonic h is h ** -HARMONIC_ROLLOFF
ATTACK_SECONDS, RELEASE_SECONDS, DECAY_PER_SECOND = 0.006, 0.09, 2.5
PEAK = 0.8  # of full scale
TAIL_SECONDS = 0.3  # of silence or release after the last note

Samples = NDArray[np.float32]


def pitch_frequency(pitch: int) -> float:
    """Return the frequency of a MIDI pitch in Hz, in equal temperament."""
    return float(CONCERT_PITCH * 2 ** ((pitch - 69) / 12))


def synthesize(notes: TimedNotes, sample_rate: int) -> Samples:
    """Return mono samples in [-PEAK, PEAK], with silence where no note sounds."""
    output = np.zeros(round((notes.end_seconds + TAIL_SECONDS) * sample_rate), np.float64)
    columns = (notes.onset_seconds, notes.duration_seconds, notes.pitches, notes.velocities)
    for onset, duration, pitch, velocity in zip(*(column.tolist() for column in columns), strict=True):
        start = round(onset * sample_rate)
        wave = _note_wave(pitch_frequency(pitch), duration, sample_rate)[: len(output) - start]
        output[start : start + len(wave)] += wave * velocity / 127
    return normalize_peak(output)


def normalize_peak(samples: NDArray[np.floating]) -> Samples:
    """Scale samples to PEAK, so that pieces are equally loud; keep silence."""
    peak = np.abs(samples).max(initial=0.0)
    return (samples * (PEAK / peak if peak > 0 else 1.0)).astype(np.float32)


def _note_wave(frequency: float, duration: float, sample_rate: int) -> NDArray[np.float64]:
    """Return one note with attack, exponential decay and release."""
    length = duration + RELEASE_SECONDS
    seconds = np.arange(round(length * sample_rate)) / sample_rate
    envelope = np.minimum(seconds / ATTACK_SECONDS, 1) * np.exp(-DECAY_PER_SECOND * seconds)
    envelope *= np.clip((length - seconds) / RELEASE_SECONDS, 0, 1)
    harmonics = [harmonic for harmonic in range(1, NUM_HARMONICS + 1) if harmonic * frequency < sample_rate / 2]
    phase = 2 * np.pi * frequency * seconds
    wave: NDArray[np.float64] = envelope * sum(np.sin(harmonic * phase) * harmonic**-HARMONIC_ROLLOFF for harmonic in harmonics)
    return wave
