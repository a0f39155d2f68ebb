"""Apply and invert the eight symmetries of a grid and permutations of its colours.

Symmetry number s is a sum of bits: 1 transposes, then 2 reverses the rows, then 4 reverses the columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.domains.grids.content.puzzle import NUM_COLORS, Grid, GridPair, Puzzle

NUM_SYMMETRIES = 8
TRANSPOSE, REVERSE_ROWS, REVERSE_COLUMNS = 1, 2, 4
IDENTITY_COLORS = tuple(range(NUM_COLORS))


def apply_symmetry(grid: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """Return a view of a grid under a symmetry."""
    grid = grid.T if symmetry & TRANSPOSE else grid
    grid = grid[::-1] if symmetry & REVERSE_ROWS else grid
    return grid[:, ::-1] if symmetry & REVERSE_COLUMNS else grid


def inverse_symmetry(symmetry: int) -> int:
    """Return the symmetry that undoes another one."""
    if not symmetry & TRANSPOSE:
        return symmetry
    rows, columns = symmetry & REVERSE_ROWS, symmetry & REVERSE_COLUMNS
    return TRANSPOSE | (REVERSE_COLUMNS if rows else 0) | (REVERSE_ROWS if columns else 0)


@lru_cache(maxsize=1024)
def symmetry_indices(height: int, width: int) -> NDArray[np.int64]:
    """Return int64 (8, height × width): the source cell of each cell by symmetry.

    Cells are numbered by rows.
    """
    cells: NDArray[Any] = np.arange(height * width).reshape(height, width)
    return np.stack([apply_symmetry(cells, symmetry).ravel() for symmetry in range(NUM_SYMMETRIES)])


def inverse_colors(colors: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that undoes another one."""
    return tuple(np.argsort(np.asarray(colors)).tolist())


def draw_colors(generator: np.random.Generator, fixed: NDArray[np.bool_]) -> tuple[int, ...]:
    """Draw a permutation of the colours that keeps `fixed`, bool (10,), in place."""
    colors = np.arange(NUM_COLORS)
    free = np.flatnonzero(~fixed)
    colors[free] = generator.permutation(free)
    return tuple(colors.tolist())


def fixed_colors(puzzle: Puzzle) -> NDArray[np.bool_]:
    """Return the colours that no permutation may change, bool (10,).

    They are 0, usually the background, and those that only outputs have: the rule names them.
    """
    inputs, outputs = np.zeros(NUM_COLORS, np.bool_), np.zeros(NUM_COLORS, np.bool_)
    for pair in puzzle.pairs:
        inputs[pair.input] = True
        if pair.output is not None:
            outputs[pair.output] = True
    fixed: NDArray[np.bool_] = outputs & ~inputs
    fixed[0] = True
    return fixed


@dataclass(frozen=True, slots=True)
class GridView:
    """Show a puzzle under a symmetry and a permutation of its colours.

    `colors[c]` is the colour that replaces colour c.
    """

    symmetry: int = 0
    colors: tuple[int, ...] = IDENTITY_COLORS

    def apply(self, grid: Grid) -> Grid:
        """Return the view of a grid."""
        view: Grid = np.asarray(self.colors, np.uint8)[apply_symmetry(grid, self.symmetry)]
        return view

    def invert(self, grid: Grid) -> Grid:
        """Return the grid that has this view."""
        colors = np.asarray(inverse_colors(self.colors), np.uint8)
        original: Grid = colors[apply_symmetry(grid, inverse_symmetry(self.symmetry))]
        return original

    def apply_to_puzzle(self, puzzle: Puzzle) -> Puzzle:
        """Return the view of each grid of a puzzle."""

        def view(pair: GridPair) -> GridPair:
            return GridPair(self.apply(pair.input), None if pair.output is None else self.apply(pair.output))

        return Puzzle(puzzle.id, puzzle.collection, puzzle.split, tuple(map(view, puzzle.train)), tuple(map(view, puzzle.test)))


def draw_views(puzzle: Puzzle, num_views: int, seed: int, symmetries: Sequence[int] = range(NUM_SYMMETRIES)) -> list[GridView]:
    """Draw views of a puzzle: the symmetries in turn, each with other colours.

    The first is the puzzle itself. Views depend on the id of the puzzle and the seed alone.
    """
    fixed, generator = fixed_colors(puzzle), rng.make_rng(seed, "views", puzzle.collection, puzzle.id)
    drawn = [GridView(symmetries[number % len(symmetries)], draw_colors(generator, fixed)) for number in range(1, num_views)]
    return [GridView(), *drawn][:num_views]
