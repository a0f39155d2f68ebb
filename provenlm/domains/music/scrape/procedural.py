"""Generate deterministic pieces of three parts, for tests and first runs.

They are in the public domain by construction.

A piece has a key, a walk through functional harmony, a form such as AABA, a melody, block chords and a bass.
"""

import random

import symusic

from provenlm.domains.music.content.score import TICKS_PER_QUARTER

NUM_BARS = 32
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
NEXT_CHORDS = {0: (3, 4, 5, 1), 1: (4,), 2: (5, 3), 3: (4, 0, 1), 4: (0, 5), 5: (3, 1), 6: (0,)}
FORMS = ("AABA", "ABAB", "AABB", "ABAC")
STEPS = (-2, -1, -1, 0, 1, 1, 2)  # of the melody, in degrees of the scale
MELODY, CHORDS, BASS = 0, 0, 32  # programs


def compose_piece(seed: int) -> symusic.Score:
    """Return the piece of a seed; equal seeds give equal pieces."""
    generator = random.Random(seed)
    tonic = generator.randrange(12)
    scale = MINOR if generator.random() < 0.4 else MAJOR
    meter = generator.choice((3, 4, 4, 4))
    score = symusic.Score(TICKS_PER_QUARTER)
    score.time_signatures.append(symusic.TimeSignature(0, meter, 4))
    score.tempos.append(symusic.Tempo(0, generator.choice((72, 84, 96, 108, 120, 132))))
    melody, chords, bass = (symusic.Track(program=program) for program in (MELODY, CHORDS, BASS))
    form = generator.choice(FORMS)
    num_bars = NUM_BARS // len(form)
    sections = {name: _compose_section(generator, meter, num_bars, name == "B") for name in sorted(set(form))}

    def pitch(degree: int, octave: int) -> int:
        return 12 * (octave + 1) + tonic + scale[degree % 7] + 12 * (degree // 7)

    for index, name in enumerate(form):
        harmony, lines = sections[name]
        for bar, line in enumerate(lines):
            start = (index * num_bars + bar) * meter * TICKS_PER_QUARTER
            length = meter * TICKS_PER_QUARTER
            time = start
            for beats, degree in line:
                duration = int(beats * TICKS_PER_QUARTER)
                melody.notes.append(symusic.Note(time, duration, pitch(degree, 5), generator.randint(70, 100)))
                time += duration
            bass.notes.append(symusic.Note(start, length, pitch(harmony[bar], 2), 80))
            for interval in (0, 2, 4):
                chords.notes.append(symusic.Note(start, length, pitch(harmony[bar] + interval, 4), 60))
    score.tracks.extend([melody, chords, bass])
    return score


def _compose_section(
    generator: random.Random, meter: int, num_bars: int, is_contrast: bool
) -> tuple[list[int], list[list[tuple[float, int]]]]:
    """Return the chord of each bar and the melody of each bar as (quarter notes, degree)."""
    harmony = [0]
    while len(harmony) < num_bars:
        harmony.append(generator.choice(NEXT_CHORDS[harmony[-1]]))
    harmony[-1] = 4 if is_contrast else 0
    rest = [1.0] * (meter - 2)
    patterns = (
        [1.0, 1.0, *rest], [0.5, 0.5, 1.0, *rest], [1.5, 0.5, *rest], [2.0, *rest], [0.5] * (2 * meter),
    )  # fmt: skip
    rhythm = [generator.choice(patterns) for _ in range(2)]
    degree, lines = generator.choice((0, 2, 4)), []
    for bar in range(num_bars):
        line: list[tuple[float, int]] = []
        for index, beats in enumerate(rhythm[bar % 2]):
            degree = max(-3, min(9, degree + generator.choice(STEPS)))
            if index == 0:  # a chord tone on the first beat
                tones = [harmony[bar] + interval for interval in (-7, -5, -3, 0, 2, 4, 7, 9)]
                degree = min(tones, key=lambda tone: (abs(tone - degree), tone))
            line.append((beats, degree))
        lines.append(line)
    return harmony, lines
