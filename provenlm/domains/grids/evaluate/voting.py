"""Combine the predictions of several views of a puzzle.

A view is the same pair of grids under another symmetry and permutation of colours. Predictions are in the puzzle's own symmetry and colours.

Shapes: X cells of a grid, by rows; C colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from provenlm.domains.grids.content.puzzle import NUM_COLORS, Grid
from provenlm.domains.grids.evaluate.submission import NUM_ATTEMPTS


class ViewPrediction(NamedTuple):
    """Hold the output that a model predicts in one view.

    It is in the puzzle's own symmetry and colours. `log_prob` is the mean log-probability of its cells.
    """

    grid: Grid
    log_prob: float


@dataclass(frozen=True)
class Candidate:
    """Hold an output grid with the views that voted for it.

    `log_prob` is the mean of their log-probabilities.
    """

    grid: Grid
    views: tuple[int, ...]
    log_prob: float

    @property
    def num_votes(self) -> int:
        """Return the number of views that predicted the grid."""
        return len(self.views)


def most_probable(log_probs_XC: NDArray[np.floating[Any]], height: int, width: int) -> ViewPrediction:
    """Return the grid of the most probable colours.

    The cells of one view are given by rows.
    """
    if log_probs_XC.shape != (height * width, NUM_COLORS):
        raise ValueError(f"log_probs_XC must have the shape {(height * width, NUM_COLORS)}, got {log_probs_XC.shape}")
    grid = log_probs_XC.argmax(-1).astype(np.uint8).reshape(height, width)
    return ViewPrediction(grid, float(log_probs_XC.max(-1).mean()))


def vote(predictions: Sequence[ViewPrediction]) -> list[Candidate]:
    """Rank the distinct grids that views predict.

    The most votes come first; among equal ones, the larger mean log-probability; then the earlier view.
    """
    views: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for number, prediction in enumerate(predictions):
        views.setdefault((prediction.grid.shape, prediction.grid.tobytes()), []).append(number)
    candidates = [
        Candidate(predictions[numbers[0]].grid, tuple(numbers), float(np.mean([predictions[n].log_prob for n in numbers])))
        for numbers in views.values()
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.num_votes, -candidate.log_prob, candidate.views[0]))


def product_of_experts(log_probs: Sequence[NDArray[np.floating[Any]]], shapes: Sequence[tuple[int, int]]) -> list[Candidate]:
    """Average the log-probabilities of views that agree on the size.

    The candidates have the most probable colours by the mean. `log_probs[v]` holds those of the cells of view v by rows, (X, C), in the
    puzzle's own symmetry and colours, and `shapes[v]` its height and width. The size with the most views comes first; among equal ones,
    the larger mean log-probability.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(number)
    candidates = []
    for (height, width), numbers in groups.items():
        mean_XC = np.mean([log_probs[number] for number in numbers], 0)
        prediction = most_probable(mean_XC, height, width)
        candidates.append(Candidate(prediction.grid, tuple(numbers), prediction.log_prob))
    return sorted(candidates, key=lambda candidate: (-candidate.num_votes, -candidate.log_prob, candidate.views[0]))


def second_choice(log_probs_XC: NDArray[np.floating[Any]], grid: Grid) -> Grid:
    """Return the most probable grid that differs from the most probable one, `grid`.

    It has another colour at the cell where that costs least.
    """
    ranked_XC = np.sort(log_probs_XC, -1)
    cell = int((ranked_XC[:, -1] - ranked_XC[:, -2]).argmin())
    other = grid.copy()
    other.flat[cell] = np.argsort(log_probs_XC[cell])[-2]
    return other


def two_attempts(rankings: Sequence[Sequence[Candidate]], fallback: Grid | None = None) -> list[Grid]:
    """Return the first two distinct grids of some rankings, in turn from each.

    `fallback` is the second attempt where all rankings agree on one grid. Only one attempt is returned where there is no other grid.
    """
    depth = max(map(len, rankings), default=0)
    grids = [ranking[rank].grid for rank in range(depth) for ranking in rankings if rank < len(ranking)]
    attempts: list[Grid] = []
    for grid in [*grids, *([] if fallback is None else [fallback])]:
        if len(attempts) < NUM_ATTEMPTS and not any(np.array_equal(grid, attempt) for attempt in attempts):
            attempts.append(grid)
    return attempts
