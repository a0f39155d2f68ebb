"""Solve puzzles with a model that predicts the cells of an output.

Each test input is shown in several views. They keep the order of cells, so that position t of each view is the same cell of the puzzle, and only
colours must be undone. Shapes: V views, T cells, C colours, X cells of an output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.domains.grids.content.puzzle import NUM_COLORS, Grid, Puzzle
from provenlm.domains.grids.content.symmetries import NUM_SYMMETRIES, GridView, draw_views
from provenlm.domains.grids.evaluate.size_rules import predict_sizes
from provenlm.domains.grids.evaluate.voting import most_probable, product_of_experts, second_choice, two_attempts, vote
from provenlm.domains.grids.tokenize.augmentation import apply_colors, apply_symmetries
from provenlm.domains.grids.tokenize.grid_batches import IGNORE, GridBatch, make_batch, query_sequences

CELLS_PER_BATCH = 16_384  # of one forward pass

Predict = Callable[[GridBatch], Tensor]  # log-probabilities (V, T, C) of colours


@dataclass(frozen=True)
class OutputAttempts:
    """Hold the attempts at one test output, best first.

    `voted` are those of all views, `single` those of the puzzle as it is. `num_votes` is the number of views that predicted the first voted
    one, `num_leaky` the number of views that show more than the input.
    """

    voted: list[Grid]
    single: list[Grid]
    num_votes: int
    num_leaky: int


def solve_puzzle(
    predict: Predict,
    puzzle: Puzzle,
    task: int,
    in_place: bool,
    num_views: int,
    seed: int,
    symmetries: Sequence[int] = range(NUM_SYMMETRIES),
) -> list[OutputAttempts]:
    """Return the attempts at each test output of a puzzle.

    The size of an output is that of the size rules. The first attempt is the grid with the most votes, the second one the next of them, or
    the grid of the mean log-probabilities, or the one that differs where that costs least.
    """
    views = draw_views(puzzle, num_views, seed, symmetries)
    sizes = [prediction.size for prediction in predict_sizes(puzzle)]
    results = []
    for sequence, (height, width) in zip(query_sequences(puzzle, task, sizes, in_place), sizes, strict=True):
        batch = make_batch([sequence])
        shown = show_views(batch, views)
        log_probs_VXC = predict_outputs(predict, shown, views)
        ranking = vote([most_probable(log_probs_XC, height, width) for log_probs_XC in log_probs_VXC])
        mean_ranking = product_of_experts(list(log_probs_VXC), [(height, width)] * len(views))
        mean_XC, first = log_probs_VXC.mean(0), most_probable(log_probs_VXC[0], height, width).grid
        voted = two_attempts([ranking, mean_ranking], second_choice(mean_XC, ranking[0].grid))
        single = [first, second_choice(log_probs_VXC[0], first)]
        results.append(OutputAttempts(voted, single, ranking[0].num_votes, len(find_leaky_views(shown, batch, views))))
    return results


def show_views(batch: GridBatch, views: list[GridView]) -> GridBatch:
    """Return a batch of one sequence in each view; cells keep their order."""
    repeated = batch.map(lambda tensor: tensor.expand(len(views), *tensor.shape[1:]))
    symmetries_V = torch.tensor([view.symmetry for view in views])
    return apply_colors(apply_symmetries(repeated, symmetries_V), colors_of(views))


def colors_of(views: list[GridView]) -> Tensor:
    """Return what replaces each colour in each view, (V, C)."""
    return torch.tensor([view.colors for view in views])


def predict_outputs(predict: Predict, shown: GridBatch, views: list[GridView]) -> NDArray[np.float32]:
    """Return log-probabilities (V, X, C) of the puzzle's own colours."""
    num_views = max(1, CELLS_PER_BATCH // shown.seq_len)
    parts = [predict(shown.select(slice(start, start + num_views))) for start in range(0, len(views), num_views)]
    log_probs_VTC = undo_colors(torch.cat(parts), colors_of(views))
    log_probs_VXC: NDArray[np.float32] = log_probs_VTC[:, shown.is_query_BT[0]].numpy()
    return log_probs_VXC


def undo_colors(log_probs_VTC: Tensor, colors_VC: Tensor) -> Tensor:
    """Return the log-probabilities of the puzzle's own colours, from those of views."""
    return log_probs_VTC.gather(-1, colors_VC[:, None, :].expand(-1, log_probs_VTC.shape[1], -1))


def find_leaky_views(shown: GridBatch, batch: GridBatch, views: list[GridView]) -> list[int]:
    """Return the views that carry more than the input of a puzzle.

    `batch` is the puzzle as one sequence, and `shown` its views. A view carries an answer if it has targets, or a token at any cell that is
    not the one of the puzzle in the colours of the view: a vote of such a view proves nothing.
    """
    tokens_T = batch.inputs_BT[0]
    expected_VT = torch.where(tokens_T < NUM_COLORS, colors_of(views)[:, tokens_T.clamp(max=NUM_COLORS - 1)], tokens_T)
    differs_V = (shown.inputs_BT != expected_VT).any(1) | (shown.targets_BT != IGNORE).any(1)
    leaky: list[int] = differs_V.nonzero()[:, 0].tolist()
    return leaky
