"""Draw puzzles as SVG in the official colours of the ARC Prize."""

from collections.abc import Sequence

import numpy as np

from provenlm.domains.grids.content.puzzle import Grid, Puzzle, parse_puzzle

PALETTE = ("#000000", "#1E93FF", "#F93C31", "#4FCC30", "#FFDC00", "#999999", "#E53AA3", "#FF851B", "#87D8F1", "#921231")
LINE_COLOR = "#555555"
CELL, GAP = 12, 16  # pixels


def draw_grid(grid: Grid, left: int = 0, top: int = 0) -> str:
    """Return the SVG elements of a grid: a rectangle for each run of a colour."""
    height, width = grid.shape
    parts = []
    for y, row in enumerate(grid):
        starts = np.flatnonzero(np.diff(row.astype(int), prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), width], strict=True):
            parts.append(
                f'<rect x="{left + CELL * start}" y="{top + CELL * y}" width="{CELL * (end - start)}" height="{CELL}" fill="{PALETTE[row[start]]}"/>'
            )
    lines = "".join(f"M{left + CELL * x} {top}v{CELL * height}" for x in range(width + 1))
    lines += "".join(f"M{left} {top + CELL * y}h{CELL * width}" for y in range(height + 1))
    return "".join(parts) + f'<path d="{lines}" stroke="{LINE_COLOR}" fill="none"/>'


def draw_puzzle(puzzle: Puzzle) -> bytes:
    """Draw each pair as a column, the input above its output if that is visible."""
    return draw_columns([[pair.input, *([] if pair.output is None else [pair.output])] for pair in puzzle.pairs])


def draw_attempts(puzzle: Puzzle, attempts: Sequence[Sequence[Grid]], solutions: Sequence[Grid | None]) -> bytes:
    """Draw demonstrations, then each test input above attempts and solution."""
    columns = [[pair.input, *([] if pair.output is None else [pair.output])] for pair in puzzle.train]
    for pair, grids, solution in zip(puzzle.test, attempts, solutions, strict=True):
        columns.append([pair.input, *grids, *([] if solution is None else [solution])])
    return draw_columns(columns)


def draw_columns(columns: Sequence[Sequence[Grid]]) -> bytes:
    """Draw columns of grids from left to right."""
    parts, left, bottom = [], GAP, 0
    for grids in columns:
        top = GAP
        for grid in grids:
            parts.append(draw_grid(grid, left, top))
            top += CELL * grid.shape[0] + GAP
        left += CELL * max(grid.shape[1] for grid in grids) + GAP
        bottom = max(bottom, top)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{left}" height="{bottom}">{"".join(parts)}</svg>'.encode()


def draw_content(content: bytes) -> bytes:
    """Draw the JSON of a task. Raises DataError if it is none."""
    return draw_puzzle(parse_puzzle(content))
