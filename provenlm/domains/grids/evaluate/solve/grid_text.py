"""Write grids as text and read them back.

    I        an input follows
    010      a row of cells, one digit each
    111
    O        an output follows
    000
    222
             an empty line ends the pair

Text is compared character by character and never evaluated.
"""

from collections.abc import Sequence

import numpy as np

from provenlm.core.errors import DataError
from provenlm.domains.grids.content.puzzle import MAX_SIDE, Grid, GridPair

DIGITS = "0123456789"
ROW_END, INPUT_MARK, OUTPUT_MARK = "\n", "I", "O"
CHARACTERS = DIGITS + ROW_END + INPUT_MARK + OUTPUT_MARK
MAX_ANSWER_CHARACTERS = MAX_SIDE * (MAX_SIDE + 1) + 1


class GridTextError(DataError):
    """Report text that is no grid."""


def format_grid(grid: Grid) -> str:
    """Return the rows of a grid, each with its end."""
    return "".join("".join(DIGITS[cell] for cell in row) + ROW_END for row in grid.tolist())


def format_question(grid: Grid) -> str:
    """Return an input and the mark after which its output is expected."""
    return f"{INPUT_MARK}{ROW_END}{format_grid(grid)}{OUTPUT_MARK}{ROW_END}"


def format_answer(grid: Grid) -> str:
    """Return an output with the empty line that ends it."""
    return format_grid(grid) + ROW_END


def format_pair(pair: GridPair) -> str:
    """Return a pair with its output. Raises ValueError if the output is hidden."""
    if pair.output is None:
        raise ValueError("a demonstration must have an output")
    return format_question(pair.input) + format_answer(pair.output)


def parse_answer(text: str) -> Grid:
    """Read the grid at the beginning of `text`, up to the first empty line.

    Raises GridTextError, naming the row, if there is none.
    """
    rows = text.split(ROW_END)
    if "" not in rows[:-1]:
        raise GridTextError(f"answer: must end with an empty line, got {len(rows)} rows without one")
    return parse_rows(rows[: rows.index("")])


def parse_rows(rows: Sequence[str]) -> Grid:
    """Convert rows of digits to a grid. Raises GridTextError."""
    if not 1 <= len(rows) <= MAX_SIDE:
        raise GridTextError(f"answer: must have 1 to {MAX_SIDE} rows, got {len(rows)}")
    for number, row in enumerate(rows, 1):
        if wrong := next((character for character in row if character not in DIGITS), None):
            raise GridTextError(f"answer, row {number}: must have digits 0 to 9 only, got {wrong!r}")
        if len(row) != len(rows[0]):
            raise GridTextError(f"answer, row {number}: must have {len(rows[0])} cells as row 1, got {len(row)}")
    if len(rows[0]) > MAX_SIDE:
        raise GridTextError(f"answer: must have 1 to {MAX_SIDE} columns, got {len(rows[0])}")
    return np.array([[DIGITS.index(character) for character in row] for row in rows], np.uint8)
