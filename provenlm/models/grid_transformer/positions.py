"""Index the cells of a batch of grids: rotary angles, neighbours, groups.

Padding is left out: a batch of B sequences with T positions has N cells, numbered sequence by sequence, the shortest sequences first.

Shapes: B sequences, T positions, N cells, P planes, H head size, K = 9 cells of a 3 × 3 neighbourhood. A group has G sequences and L positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from provenlm.models.common.layers.rotary import RopeCache

MAX_SIDE = 30  # rows and columns of a grid
NUM_PLANES = 2  # input grid, output grid
OFFSETS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]  # of the neighbours, from the upper left one on
NUM_NEIGHBORS = len(OFFSETS)
MAX_GROUPS = 4  # more of them pad less, but need more calls


class AttentionGroup(NamedTuple):
    """Hold sequences of similar length, which attend in one call.

    `cells` are their cells; `slots` numbers the place of each among the G · L positions; `is_cell_GL` is None without padding.
    """

    cells: slice
    slots: Tensor
    shape: tuple[int, int]
    is_cell_GL: Tensor | None


class CellLayout(NamedTuple):
    """Hold where the cells of a batch are.

    `slots_N` numbers the place of each cell among the B · T positions; `is_cell_BT` is false for padding; `neighbors_NK` numbers the
    cells of its 3 × 3 neighbourhood, N where there is none; `rope` holds the rotations, (N, 1, H); `groups` hold all cells in their order.
    """

    slots_N: Tensor
    is_cell_BT: Tensor
    neighbors_NK: Tensor
    rope: RopeCache
    groups: list[AttentionGroup]


def lay_out_cells(is_cell_BT: Tensor, coords_BT3: Tensor, head_dim: int, theta: float) -> CellLayout:
    """Index the cells of a batch by column, row and plane.

    Raises ValueError for a coordinate outside a grid.
    """
    order_B = is_cell_BT.sum(1).argsort(stable=True)
    places_N2 = is_cell_BT[order_B].nonzero()
    sequences_N = order_B[places_N2[:, 0]]
    slots_N = sequences_N * is_cell_BT.shape[1] + places_N2[:, 1]
    columns_N, rows_N, planes_N = coords_BT3.flatten(0, 1)[slots_N].unbind(1)
    _check_coordinates(rows_N, columns_N, planes_N)
    neighbors_NK = find_neighbors(sequences_N, rows_N, columns_N, planes_N, is_cell_BT.shape[0])
    rope = grid_rope(rows_N, columns_N, planes_N, head_dim, theta)
    return CellLayout(slots_N, is_cell_BT, neighbors_NK, rope, group_sequences(is_cell_BT.sum(1)[order_B]))


def group_sequences(lengths_B: Tensor) -> list[AttentionGroup]:
    """Cut sequences of ascending lengths into groups of equal size.

    Sequences of one length are a single group.
    """
    num_groups = 1 if len(lengths_B) == 0 or lengths_B[0] == lengths_B[-1] else MAX_GROUPS
    groups, start = [], 0
    for lengths_G in lengths_B.tensor_split(num_groups):
        if (num_cells := int(lengths_G.sum())) == 0:
            continue
        seq_len = int(lengths_G[-1])
        is_cell_GL = torch.arange(seq_len, device=lengths_G.device) < lengths_G[:, None]
        has_padding = num_cells < is_cell_GL.numel()
        slots = is_cell_GL.flatten().nonzero()[:, 0]
        groups.append(
            AttentionGroup(slice(start, start + num_cells), slots, (len(lengths_G), seq_len), is_cell_GL if has_padding else None)
        )
        start += num_cells
    return groups


def find_neighbors(sequences_N: Tensor, rows_N: Tensor, columns_N: Tensor, planes_N: Tensor, num_sequences: int) -> Tensor:
    """Return neighbors_NK: which cells surround each cell in its own grid.

    A neighbour that is no cell has the number N. Column 4 is the cell itself.
    """
    side, num_cells = MAX_SIDE + 2, len(sequences_N)  # a border of one cell
    places_N = ((sequences_N * NUM_PLANES + planes_N) * side + rows_N + 1) * side + columns_N + 1
    cell_at = places_N.new_full((num_sequences * NUM_PLANES * side * side,), num_cells)
    cell_at[places_N] = torch.arange(num_cells, device=places_N.device)
    shifts_K = torch.tensor([row * side + column for row, column in OFFSETS], device=places_N.device)
    neighbors_NK: Tensor = cell_at[places_N[:, None] + shifts_K]
    return neighbors_NK


def grid_rope(rows_N: Tensor, columns_N: Tensor, planes_N: Tensor, head_dim: int, theta: float) -> RopeCache:
    """Return rotations (N, 1, H) by row, column and plane.

    Each axis has its own pairs of components (RoPE, arXiv 2104.09864, on three axes): an eighth of them the plane, half of the rest
    each the row and the column. Pair i of the n pairs of an axis rotates by position · theta^(-i/n).
    """
    angles = []
    for positions_N, num_pairs in zip((rows_N, columns_N, planes_N), pairs_by_axis(head_dim), strict=True):
        exponents = torch.arange(num_pairs, device=positions_N.device, dtype=torch.float32) / num_pairs
        angles.append(positions_N[:, None].to(torch.float32) * theta**-exponents)
    angles_N1H = torch.cat(angles, -1).repeat(1, 2)[:, None]
    return RopeCache(angles_N1H.cos(), angles_N1H.sin())


def pairs_by_axis(head_dim: int) -> tuple[int, int, int]:
    """Return the pairs of components that row, column and plane rotate."""
    num_pairs = head_dim // 2
    side = (num_pairs - max(1, num_pairs // 8)) // 2
    return side, side, num_pairs - 2 * side


def _check_coordinates(rows_N: Tensor, columns_N: Tensor, planes_N: Tensor) -> None:
    for name, values_N, limit in (("rows", rows_N, MAX_SIDE), ("columns", columns_N, MAX_SIDE), ("planes", planes_N, NUM_PLANES)):
        if len(values_N) and not bool(((values_N >= 0) & (values_N < limit)).all()):
            raise ValueError(
                f"coords_BT3: {name} of cells must be 0 to {limit - 1}, got {int(values_N.min())} to {int(values_N.max())}"
            )
