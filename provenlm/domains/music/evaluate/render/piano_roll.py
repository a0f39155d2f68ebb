"""Draw a score as a piano roll in SVG.

Time runs from left to right, pitch from bottom to top, and each note is one stroke.
"""

from collections.abc import Iterator

import symusic

from provenlm.domains.music.content.score import NoteTable, note_table

STEPS_PER_QUARTER = 24
WIDTH, KEYS_WIDTH, BOTTOM, ROW = 620, 30, 18, 5  # pixels; ROW is the height of a semitone
MIN_ROWS, MARGIN_ROWS, MIN_QUARTERS = 18, 2, 4
MAX_BAR_NUMBERS = 16
BLACK_KEYS = (1, 3, 6, 8, 10)
GRID, SHADE, TEXT, PROMPT, NOTE = "#d0d7de", "#f0f2f5", "#59636e", "#8c959f", "#1f6feb"


def piano_roll_svg(score: symusic.Score, prompt_quarters: float = 0.0) -> bytes:
    """Return the piano roll of a score.

    Notes that begin before `prompt_quarters` are grey, and a line marks that time.
    """
    notes = note_table(score, STEPS_PER_QUARTER)
    lowest, num_rows = _pitch_rows(notes)
    num_quarters = max(MIN_QUARTERS, notes.num_steps / STEPS_PER_QUARTER)
    scale, height = (WIDTH - KEYS_WIDTH) / num_quarters, num_rows * ROW + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>Piano roll of {len(notes)} notes</title>",
        *_rows(lowest, num_rows),
        *_bar_lines(score, num_quarters, scale, num_rows * ROW),
    ]
    prompt_steps = prompt_quarters * STEPS_PER_QUARTER
    for color, mask in ((PROMPT, notes.onsets < prompt_steps), (NOTE, notes.onsets >= prompt_steps)):
        if path := _note_path(notes.select(mask), lowest, num_rows, scale):
            parts.append(f'<path d="{path}" stroke="{color}" stroke-width="{ROW - 1}" fill="none"/>')
    if prompt_quarters > 0:
        x = f"{KEYS_WIDTH + prompt_quarters * scale:.1f}"
        parts.append(f'<path d="M{x} 0v{num_rows * ROW}" stroke="{TEXT}" stroke-dasharray="4 3"/>')
    if not len(notes):
        parts.append(f'<text x="{WIDTH / 2}" y="{height / 2}" text-anchor="middle" fill="{TEXT}">no notes</text>')
    return "\n".join([*parts, "</svg>\n"]).encode()


def bar_starts(score: symusic.Score, num_quarters: float) -> list[float]:
    """Return the start of every bar in quarter notes, up to `num_quarters`.

    Bars are 4/4 until the first time signature.
    """
    changes = [(signature.time / score.tpq, 4 * signature.numerator / signature.denominator) for signature in score.time_signatures]
    starts, start, length = [], 0.0, 4.0
    while start <= num_quarters:
        lengths = [quarters for time, quarters in sorted(changes) if time <= start + 1e-6 and quarters > 0]
        length = lengths[-1] if lengths else length
        starts.append(start)
        start += length
    return starts


def _pitch_rows(notes: NoteTable) -> tuple[int, int]:
    """Return the lowest pitch of the drawing and its number of rows."""
    lowest, highest = (int(notes.pitches.min()), int(notes.pitches.max())) if len(notes) else (60, 60)
    num_rows = max(MIN_ROWS, highest - lowest + 1 + 2 * MARGIN_ROWS)
    return (lowest + highest + 1 - num_rows) // 2, num_rows


def _rows(lowest: int, num_rows: int) -> Iterator[str]:
    """Shade the rows of black keys; draw a line and a name below every C."""
    for row in range(num_rows):
        pitch, y = lowest + row, (num_rows - row) * ROW
        if pitch % 12 in BLACK_KEYS:
            yield f'<rect x="{KEYS_WIDTH}" y="{y - ROW}" width="{WIDTH - KEYS_WIDTH}" height="{ROW}" fill="{SHADE}"/>'
        if pitch % 12 == 0:
            yield f'<path d="M{KEYS_WIDTH} {y}H{WIDTH}" stroke="{GRID}"/><text x="4" y="{y}" fill="{TEXT}">C{pitch // 12 - 1}</text>'


def _bar_lines(score: symusic.Score, num_quarters: float, scale: float, height: int) -> Iterator[str]:
    starts = bar_starts(score, num_quarters)
    interval = -(-len(starts) // MAX_BAR_NUMBERS)
    for number, start in enumerate(starts):
        x = f"{KEYS_WIDTH + start * scale:.1f}"
        yield f'<path d="M{x} 0v{height}" stroke="{GRID}"/>'
        if number % interval == 0 and start < num_quarters:
            yield f'<text x="{x}" y="{height + 13}" fill="{TEXT}">{number + 1}</text>'


def _note_path(notes: NoteTable, lowest: int, num_rows: int, scale: float) -> str:
    """Return horizontal strokes, one for each note, a little shorter than the note so that repeated notes stay apart."""
    strokes = []
    for onset, pitch, duration in zip(notes.onsets.tolist(), notes.pitches.tolist(), notes.durations.tolist(), strict=True):
        x, y = KEYS_WIDTH + onset / STEPS_PER_QUARTER * scale, (num_rows - (pitch - lowest) - 0.5) * ROW
        strokes.append(f"M{x:.1f} {y:g}h{max(1.0, duration / STEPS_PER_QUARTER * scale - 1):.1f}")
    return "".join(strokes)
