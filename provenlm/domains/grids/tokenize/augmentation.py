"""Show training pairs in other views: symmetries and permutations of colours.

Shapes: B sequences, T cells, C colours.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core import rng
from provenlm.core.interfaces import Augmentation
from provenlm.data.token_dataset import TokenDataset
from provenlm.domains.grids.content.puzzle import NUM_COLORS
from provenlm.domains.grids.content.symmetries import (
    IDENTITY_COLORS,
    NUM_SYMMETRIES,
    REVERSE_COLUMNS,
    REVERSE_ROWS,
    TRANSPOSE,
    draw_colors,
    fixed_colors,
)
from provenlm.domains.grids.tokenize.batch_config import GridAugmentationConfig
from provenlm.domains.grids.tokenize.grid_batches import INPUT_PLANE, OUTPUT_PLANE, PLANE, GridBatch, X, Y, read_puzzles
from provenlm.domains.grids.tokenize.grid_tokenizer import PAD


def apply_symmetries(batch: GridBatch, symmetries_B: Tensor) -> GridBatch:
    """Show each pair under another symmetry; cells keep their order."""
    x_BT, y_BT, plane_BT = batch.coords_BT3.unbind(2)
    is_cell_BT = batch.inputs_BT != PAD
    symmetries_B1 = symmetries_B[:, None]
    is_transposed_B1 = (symmetries_B1 & TRANSPOSE) > 0
    x_BT, y_BT = torch.where(is_transposed_B1, y_BT, x_BT), torch.where(is_transposed_B1, x_BT, y_BT)
    for plane in (INPUT_PLANE, OUTPUT_PLANE):
        in_plane_BT = is_cell_BT & (plane_BT == plane)
        last_x_B1 = torch.where(in_plane_BT, x_BT, 0).amax(1, keepdim=True)
        last_y_B1 = torch.where(in_plane_BT, y_BT, 0).amax(1, keepdim=True)
        y_BT = torch.where(in_plane_BT & ((symmetries_B1 & REVERSE_ROWS) > 0), last_y_B1 - y_BT, y_BT)
        x_BT = torch.where(in_plane_BT & ((symmetries_B1 & REVERSE_COLUMNS) > 0), last_x_B1 - x_BT, x_BT)
    coords = torch.empty_like(batch.coords_BT3)
    coords[:, :, X], coords[:, :, Y], coords[:, :, PLANE] = x_BT, y_BT, plane_BT
    return GridBatch(batch.inputs_BT, batch.targets_BT, coords, batch.is_query_BT, batch.tasks_B, symmetries_B)


def apply_colors(batch: GridBatch, colors_BC: Tensor) -> GridBatch:
    """Replace colour c of sequence b by `colors_BC[b, c]`; other tokens stay."""

    def replace_colors(ids_BT: Tensor) -> Tensor:
        is_color_BT = (ids_BT >= 0) & (ids_BT < NUM_COLORS)
        return torch.where(is_color_BT, colors_BC.gather(1, ids_BT.clamp(0, NUM_COLORS - 1)), ids_BT)

    inputs_BT, targets_BT = replace_colors(batch.inputs_BT), replace_colors(batch.targets_BT)
    return GridBatch(inputs_BT, targets_BT, batch.coords_BT3, batch.is_query_BT, batch.tasks_B, batch.symmetries_B)


def build_augmentation(dataset: TokenDataset, config: GridAugmentationConfig, seed: int) -> Augmentation | None:
    """Return the augmentation of a data set; None if it changes nothing.

    The view of a sequence depends on the seed, the number of the draw and the fixed colours of its task.
    """
    if not config.symmetries and not config.colors:
        return None
    fixed_by_task = {task: fixed_colors(puzzle) for task, puzzle in read_puzzles(dataset.train, dataset).items()}

    def augment(batch: Any, draws_B: NDArray[np.int64]) -> Any:
        symmetries, colors = [], []
        for task, draw in zip(batch.tasks_B.tolist(), draws_B.tolist(), strict=True):
            generator = rng.make_rng(seed, "augmentation", draw)
            symmetries.append(int(generator.integers(NUM_SYMMETRIES)) if config.symmetries else 0)
            colors.append(draw_colors(generator, fixed_by_task[task]) if config.colors else IDENTITY_COLORS)
        return apply_colors(apply_symmetries(batch, torch.tensor(symmetries)), torch.tensor(colors))

    num_permutations = max(_factorial(NUM_COLORS - int(fixed.sum())) for fixed in fixed_by_task.values()) if config.colors else 1
    num_symmetries = NUM_SYMMETRIES if config.symmetries else 1
    description = f"{num_symmetries} symmetries × up to {num_permutations} permutations of colours"
    return Augmentation(augment, num_symmetries * num_permutations, description)


def _factorial(number: int) -> int:
    return int(np.prod(np.arange(1, number + 1), dtype=np.int64))
