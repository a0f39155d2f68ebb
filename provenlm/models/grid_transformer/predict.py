"""Predict output grids and combine the predictions of several views of a puzzle.

A view is the same pair of grids under another symmetry and permutation of colours. `colors_BC[b, c]` is the colour that replaces colour c
in view b. Cells of views that keep the order of positions are those of the puzzle, whatever their coordinates.

Shapes: B sequences, T positions, C colours, V views, X cells of a grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from provenlm.models.common.objective import IGNORE
from provenlm.models.grid_transformer.model import NUM_COLORS, PADDING, QUERY

Grid = NDArray[np.uint8]


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


def output_cells(batch: Any) -> Tensor:
    """Return which positions (B, T) are cells of the output.

    They are the queries, or all cells where the output is in place.
    """
    is_color_BT = batch.inputs_BT < NUM_COLORS
    is_output_BT: Tensor = (batch.inputs_BT == QUERY) | (is_color_BT & batch.in_place_B[:, None])
    return is_output_BT


def color_log_probs(model: nn.Module, batch: Any) -> Tensor:
    """Return the log-probabilities (B, T, C) of colours, without a graph.

    They are float32 or wider.
    """
    with torch.no_grad():
        logits_BTC: Tensor = model(batch)
    return logits_BTC.to(torch.promote_types(logits_BTC.dtype, torch.float32)).log_softmax(-1)


def predict(model: nn.Module, batch: Any) -> Tensor:
    """Return the most probable colour (B, T) of output cells.

    It is -100 at all other positions. The colours are those of the views of the batch. Targets are not read.
    """
    return color_log_probs(model, batch).argmax(-1).masked_fill(~output_cells(batch), IGNORE)


def undo_colors(log_probs_BTC: Tensor, colors_BC: Tensor) -> Tensor:
    """Return the log-probabilities of the puzzle's own colours, from those of a view."""
    index_BTC = colors_BC[:, None, :].expand(-1, log_probs_BTC.shape[1], -1)
    return log_probs_BTC.gather(-1, index_BTC)


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
        if len(attempts) < 2 and not any(np.array_equal(grid, attempt) for attempt in attempts):
            attempts.append(grid)
    return attempts


def leaky_views(batch: Any, puzzle: Any, colors_BC: Tensor) -> list[int]:
    """Return the views that carry more than the input of a puzzle.

    `puzzle` is the puzzle as one sequence without targets, and `batch` its views in the same order of cells. A view carries an answer if
    it has targets, or a token at any cell that is not the one of the puzzle in the colours of the view: a vote of such a view proves
    nothing.
    """
    tokens_T = puzzle.inputs_BT[0]
    width = int((tokens_T != PADDING).sum())
    tokens_T = tokens_T[:width]
    color_BT = colors_BC[:, tokens_T.clamp(max=NUM_COLORS - 1)]
    expected_BT = torch.where(tokens_T < NUM_COLORS, color_BT, tokens_T)
    differs_B = (batch.inputs_BT[:, :width] != expected_BT).any(1) | (batch.inputs_BT[:, width:] != PADDING).any(1)
    has_targets_B = (batch.targets_BT != IGNORE).any(1)
    leaky: list[int] = (differs_B | has_targets_B).nonzero()[:, 0].tolist()
    return leaky
