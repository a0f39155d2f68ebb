"""Measure loudness of audio, and whether its spectrum shows the onsets of notes."""

import numpy as np

from provenlm.domains.music.evaluate.render.synthesizer import Samples, pitch_frequency
from provenlm.domains.music.evaluate.render.timed_notes import TimedNotes

WINDOW_SECONDS, GAP_SECONDS = 0.05, 0.005
MIN_RISE = 1.25  # ratio of the amplitudes at the frequency of a note after and before its onset
NOISE_AMPLITUDE = 1e-3  # of the loudest note: quieter is silence


def root_mean_square(samples: Samples) -> float:
    """Return the root mean square of samples; 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def onset_ratio(samples: Samples, sample_rate: int, notes: TimedNotes) -> float:
    """Return the fraction of notes at whose onset their frequency gets louder.

    The amplitude is that of the frequency component in a window of WINDOW_SECONDS before and after the onset. Raises
    ValueError for no notes.
    """
    if not len(notes):
        raise ValueError("notes must be at least one, got none")
    rises = []
    loudest = np.abs(samples).max(initial=0.0)
    for onset, pitch in zip(notes.onset_seconds.tolist(), notes.pitches.tolist(), strict=True):
        before = _amplitude(samples, sample_rate, onset - GAP_SECONDS - WINDOW_SECONDS, pitch)
        after = _amplitude(samples, sample_rate, onset + GAP_SECONDS, pitch)
        rises.append(after > MIN_RISE * before + NOISE_AMPLITUDE * loudest)
    return float(np.mean(rises))


def _amplitude(samples: Samples, sample_rate: int, start_seconds: float, pitch: int) -> float:
    """Return the amplitude at the frequency of a pitch in one window; 0 beyond the ends of the audio."""
    start = round(start_seconds * sample_rate)
    window = samples[max(0, start) : max(0, start + round(WINDOW_SECONDS * sample_rate))]
    if not len(window):
        return 0.0
    phase = -2j * np.pi * pitch_frequency(pitch) / sample_rate * np.arange(len(window))
    return float(np.abs(np.mean(window * np.hanning(len(window)) * np.exp(phase))))
