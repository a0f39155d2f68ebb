"""Predict the size of an output by the first rule that fits all demonstrations.

The output keeps the size, has one size for all, a constant multiple of it, the transposed size or a constant difference to it, or its sides
follow from the number of colours or of coloured cells of the input.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np

from provenlm.domains.grids.content.puzzle import MAX_SIDE, Grid, GridPair, Puzzle

Size = tuple[int, int]
SizeRule = Callable[[Grid], Size]


class SizePrediction(NamedTuple):
    """Hold the predicted size of an output and the rule that gave it.

    Without a rule that fits, `rule` is "" and the size is that of the input.
    """

    rule: str
    size: Size


def count_all_colors(grid: Grid) -> int:
    """Count the colours of a grid."""
    return len(np.unique(grid))


def count_colors_but_0(grid: Grid) -> int:
    """Count the colours of a grid without 0."""
    return len(np.unique(grid[grid > 0]))


def count_colors_minus_1(grid: Grid) -> int:
    """Count the colours of a grid without its background, whichever that is."""
    return count_all_colors(grid) - 1


def count_colored_cells(grid: Grid) -> int:
    """Count the cells of a grid that are not 0."""
    return int(np.count_nonzero(grid))


COUNTS: dict[str, Callable[[Grid], int]] = {
    "colors": count_all_colors,
    "colors_but_0": count_colors_but_0,
    "colors_minus_1": count_colors_minus_1,
    "colored_cells": count_colored_cells,
}


def _same(grid: Grid) -> Size:
    return grid.shape[0], grid.shape[1]


def _transposed(grid: Grid) -> Size:
    return grid.shape[1], grid.shape[0]


def _scaled(grid: Grid, ratios: tuple[Fraction, Fraction]) -> Size:
    """Return the scaled size; 0 for a side that is no integer."""
    height, width = (side * ratio for side, ratio in zip(grid.shape, ratios, strict=True))
    return (int(height) if height.denominator == 1 else 0, int(width) if width.denominator == 1 else 0)


def _multiplied(grid: Grid, count: Callable[[Grid], int]) -> Size:
    factor = count(grid)
    return grid.shape[0] * factor, grid.shape[1] * factor


def candidate_rules(pairs: Sequence[GridPair]) -> dict[str, SizeRule]:
    """Return the rules in the order in which they are tried.

    Constants are taken from the first pair.
    """
    (height, width), output = pairs[0].input.shape, pairs[0].output
    assert output is not None, "demonstrations are never hidden"
    size = (output.shape[0], output.shape[1])
    rules: dict[str, SizeRule] = {
        "same": _same,
        "constant": lambda grid: size,
        "ratio": partial(_scaled, ratios=(Fraction(size[0], height), Fraction(size[1], width))),
        "transposed": _transposed,
        "difference": lambda grid: (grid.shape[0] + size[0] - height, grid.shape[1] + size[1] - width),
    }
    for name, count in COUNTS.items():
        rules[f"times_{name}"] = partial(_multiplied, count=count)
        rules[f"square_of_{name}"] = lambda grid, count=count: (count(grid), count(grid))  # type: ignore[misc]
        rules[f"column_of_{name}"] = lambda grid, count=count: (count(grid), 1)  # type: ignore[misc]
        rules[f"row_of_{name}"] = lambda grid, count=count: (1, count(grid))  # type: ignore[misc]
    return rules


def fit_size_rule(pairs: Sequence[GridPair]) -> tuple[str, SizeRule] | None:
    """Return the first rule that fits every demonstration; None if none does."""
    for name, rule in candidate_rules(pairs).items():
        if all(pair.output is not None and rule(pair.input) == pair.output.shape for pair in pairs):
            return name, rule
    return None


def predict_sizes(puzzle: Puzzle) -> list[SizePrediction]:
    """Predict the size of each test output; sides are from 1 to 30."""
    fitted = fit_size_rule(puzzle.train)
    predictions = []
    for pair in puzzle.test:
        name, size = ("", _same(pair.input)) if fitted is None else (fitted[0], fitted[1](pair.input))
        height, width = (min(max(side, 1), MAX_SIDE) for side in size)
        predictions.append(SizePrediction(name, (height, width)))
    return predictions
