"""Show training pairs under random symmetries and permutations of colours.

Coordinates and colours change, the order of cells does not: position t of a view is the cell that it was. A prediction therefore needs no
inverse symmetry.

Symmetry number s is a sum of bits: 1 transposes, then 2 reverses the rows, then 4 reverses the columns.

Shapes: B sequences, T positions, N tasks, C = 10 colours.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core import rng
from provenlm.core.interfaces import Augmentation

NUM_COLORS, PADDING = 10, 11
NUM_SYMMETRIES = 8
TRANSPOSE, REVERSE_ROWS, REVERSE_COLUMNS = 1, 2, 4


def build_augmentation(is_fixed_NC: Tensor, seed: int, use_symmetries: bool = True) -> Augmentation:
    """Return the augmentation of pairs of some tasks.

    `is_fixed_NC` says which colours of each task keep their place: 0, and those that only outputs have. Each draw of a sequence takes one
    of the symmetries and one of the permutations of the other colours, all equally likely.
    """

    def augment(batch: Any, draws_B: NDArray[np.int64]) -> Any:
        symmetries_B, colors_BC = draw_views(is_fixed_NC[batch.tasks_B], draws_B, seed, use_symmetries)
        return apply_views(batch, symmetries_B, colors_BC)

    num_symmetries = NUM_SYMMETRIES if use_symmetries else 1
    num_free = int((~is_fixed_NC).sum(1).max()) if len(is_fixed_NC) else 0
    description = f"{num_symmetries} symmetries × the permutations of up to {num_free} colours"
    return Augmentation(augment, num_symmetries * math.factorial(num_free), description)


def draw_views(is_fixed_BC: Tensor, draws_B: NDArray[np.int64], seed: int, use_symmetries: bool = True) -> tuple[Tensor, Tensor]:
    """Draw symmetries_B and colors_BC: what replaces each colour of each sequence.

    They depend on the seed, the number of the draw and the fixed colours alone.
    """
    random_BX = np.stack([rng.make_rng(seed, "augmentation", draw).random(1 + NUM_COLORS) for draw in draws_B.tolist()])
    random = torch.from_numpy(random_BX)
    symmetries_B = (random[:, 0] * NUM_SYMMETRIES).long() if use_symmetries else torch.zeros(len(draws_B), dtype=torch.int64)
    return symmetries_B, permute_free(is_fixed_BC, random[:, 1:])


def permute_free(is_fixed_BC: Tensor, keys_BC: Tensor) -> Tensor:
    """Return permutations that sort the free colours by keys.

    They keep the others.
    """
    last = torch.inf  # fixed colours come last in both orders, each in the same place
    index_BC = torch.arange(NUM_COLORS, dtype=keys_BC.dtype).expand_as(keys_BC)
    ordered_BC, shuffled_BC = (
        values_BC.masked_fill(is_fixed_BC, last).argsort(dim=-1, stable=True) for values_BC in (index_BC, keys_BC)
    )
    return torch.empty_like(ordered_BC).scatter_(1, ordered_BC, shuffled_BC)


def apply_views(batch: Any, symmetries_B: Tensor, colors_BC: Tensor) -> Any:
    """Show each sequence under a symmetry and a permutation of colours.

    `batch` is a GridBatch of puzzles as they are. Raises ValueError for one that already is under a symmetry.
    """
    if batch.symmetries_B.any():
        raise ValueError(f"a batch to augment must have symmetry 0, got {batch.symmetries_B.tolist()}")
    rows_BT, columns_BT = transform_cells(batch, symmetries_B)
    return replace(
        batch,
        inputs_BT=replace_colors(batch.inputs_BT, colors_BC),
        targets_BT=replace_colors(batch.targets_BT, colors_BC),
        rows_BT=rows_BT,
        columns_BT=columns_BT,
        symmetries_B=symmetries_B.to(batch.symmetries_B),
    )


def replace_colors(tokens_BT: Tensor, colors_BC: Tensor) -> Tensor:
    """Replace the colours of tokens or targets; what is no colour stays."""
    is_color_BT = (tokens_BT >= 0) & (tokens_BT < NUM_COLORS)
    replaced_BT = colors_BC.to(tokens_BT).gather(1, tokens_BT.long().clamp(0, NUM_COLORS - 1))
    return torch.where(is_color_BT, replaced_BT, tokens_BT)


def transform_cells(batch: Any, symmetries_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns (B, T) of cells under symmetries.

    Padding stays.
    """
    symmetries_B1 = symmetries_B[:, None].to(batch.rows_BT.device)
    is_cell_BT = batch.inputs_BT != PADDING
    heights_BT, widths_BT = (grid_sides(places_BT, batch.planes_BT, is_cell_BT) for places_BT in (batch.rows_BT, batch.columns_BT))
    transposed = (symmetries_B1 & TRANSPOSE) != 0
    rows_BT, columns_BT = _swap(batch.rows_BT, batch.columns_BT, transposed)
    heights_BT, widths_BT = _swap(heights_BT, widths_BT, transposed)
    rows_BT = torch.where((symmetries_B1 & REVERSE_ROWS) != 0, heights_BT - 1 - rows_BT, rows_BT)
    columns_BT = torch.where((symmetries_B1 & REVERSE_COLUMNS) != 0, widths_BT - 1 - columns_BT, columns_BT)
    return torch.where(is_cell_BT, rows_BT, batch.rows_BT), torch.where(is_cell_BT, columns_BT, batch.columns_BT)


def grid_sides(places_BT: Tensor, planes_BT: Tensor, is_cell_BT: Tensor) -> Tensor:
    """Return the height or width of the grid of each cell.

    It is the height for rows and the width for columns.
    """
    sides_BT = torch.zeros_like(places_BT)
    for plane in (0, 1):
        is_plane_BT = is_cell_BT & (planes_BT == plane)
        sides_BT = torch.where(is_plane_BT, places_BT.masked_fill(~is_plane_BT, -1).amax(1, keepdim=True) + 1, sides_BT)
    return sides_BT


def _swap(first_BT: Tensor, second_BT: Tensor, is_swapped_B1: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(is_swapped_B1, second_BT, first_BT), torch.where(is_swapped_B1, first_BT, second_BT)
