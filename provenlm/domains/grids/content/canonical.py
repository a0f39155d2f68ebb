"""Hash pairs of grids so that equal pairs have equal hashes in every view.

The canonical form of a pair is the smallest over the eight symmetries, with colours renamed in the order of their first appearance, input
before output. Two tasks share a pair if a hash is in both. Shapes: P pairs, S symmetries, N cells of all pairs, C colours.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from provenlm.core import rng
from provenlm.core.ngram_hashing import Hashes, sorted_unique, splitmix64_array
from provenlm.domains.grids.content.puzzle import MAX_SIDE, NUM_COLORS, Grid, Puzzle
from provenlm.domains.grids.content.symmetries import NUM_SYMMETRIES, symmetry_indices

MAX_CELLS = 2 * MAX_SIDE * MAX_SIDE  # of a pair
CHUNK_CELLS = 1 << 16  # cells hashed at a time, to bound memory
NO_OUTPUT = (0, 0)  # size of a hidden output

_CELL_HASHES = rng.make_rng(0, "cells of a pair").integers(0, 1 << 63, (MAX_CELLS, NUM_COLORS), dtype=np.uint64)

GridPairs = Sequence[tuple[Grid, Grid | None]]


def canonical_hashes(pairs: GridPairs) -> Hashes:
    """Hash the canonical form of each pair: uint64 (pairs,).

    A hidden output is left out, so that pairs with hidden outputs are compared by their inputs.
    """
    chunks: list[Hashes] = []
    chunk: list[tuple[Grid, Grid | None]] = []
    num_cells = 0
    for pair in pairs:
        chunk.append(pair)
        num_cells += pair[0].size + (0 if pair[1] is None else pair[1].size)
        if num_cells >= CHUNK_CELLS:
            chunks.append(_hash_chunk(chunk))
            chunk, num_cells = [], 0
    if chunk:
        chunks.append(_hash_chunk(chunk))
    return np.concatenate([*chunks, np.zeros(0, np.uint64)])


def _hash_chunk(pairs: GridPairs) -> Hashes:
    sizes = np.array([grid.size + (0 if output is None else output.size) for grid, output in pairs])
    starts = np.cumsum(sizes) - sizes
    grids = [grid for pair in pairs for grid in pair if grid is not None]
    cells_N = np.concatenate([grid.ravel() for grid in grids])
    grid_sizes = np.array([grid.size for grid in grids])
    grid_starts_N = np.repeat(np.cumsum(grid_sizes) - grid_sizes, grid_sizes)
    source_SN = np.concatenate([symmetry_indices(*grid.shape) for grid in grids], axis=1) + grid_starts_N
    cells_SN = cells_N[source_SN]
    pair_N = np.repeat(np.arange(len(pairs)), sizes)
    position_N = np.arange(len(cells_N)) - starts[pair_N]
    symmetry_S1 = np.arange(NUM_SYMMETRIES)[:, None]
    first_SPC = np.full((NUM_SYMMETRIES, len(pairs), NUM_COLORS), MAX_CELLS)
    # of equal indices the last assignment stays: in reverse order that is the first position
    first_SPC[symmetry_S1, pair_N[::-1], cells_SN[:, ::-1]] = position_N[::-1]
    rank_SPC = np.argsort(np.argsort(first_SPC, axis=2), axis=2)
    renamed_SN = rank_SPC[symmetry_S1, pair_N, cells_SN]
    sums_SP = np.add.reduceat(_CELL_HASHES[position_N, renamed_SN], starts, axis=1)
    hashes = splitmix64_array((sums_SP + _size_codes(pairs)).ravel()).reshape(NUM_SYMMETRIES, -1)
    smallest: Hashes = hashes.min(axis=0)
    return smallest


def _size_codes(pairs: GridPairs) -> Hashes:
    """Return a number for the sizes of each pair under each symmetry, (S, P)."""
    sizes = np.array([[*grid.shape, *(NO_OUTPUT if output is None else output.shape)] for grid, output in pairs], np.uint64)
    base = np.uint64(MAX_SIDE + 1)
    upright, transposed = (
        ((sizes[:, a] * base + sizes[:, b]) * base + sizes[:, c]) * base + sizes[:, d]
        for a, b, c, d in ((0, 1, 2, 3), (1, 0, 3, 2))
    )
    is_transposed_S1 = (np.arange(NUM_SYMMETRIES) & 1).astype(np.bool_)[:, None]
    return splitmix64_array(np.where(is_transposed_S1, transposed, upright).ravel()).reshape(NUM_SYMMETRIES, -1)


def puzzle_hashes(puzzle: Puzzle) -> Hashes:
    """Hash the pairs of a puzzle: the sorted set of canonical hashes."""
    return sorted_unique(canonical_hashes([(pair.input, pair.output) for pair in puzzle.pairs]))


def find_shared_pairs(puzzles: Mapping[str, Puzzle]) -> dict[tuple[str, str], int]:
    """Count the canonical pairs that two puzzles share, by their names.

    The names of a pair are in the order of `puzzles`. Puzzles without a shared pair are left out.
    """
    names = list(puzzles)
    hashes = canonical_hashes([(pair.input, pair.output) for puzzle in puzzles.values() for pair in puzzle.pairs])
    owners = np.repeat(np.arange(len(names)), [len(puzzle.pairs) for puzzle in puzzles.values()])
    return count_shared(((int(value), int(owner)) for value, owner in zip(hashes, owners, strict=True)), names)


def count_shared(hashes: Iterable[tuple[int, int]], names: Sequence[str]) -> dict[tuple[str, str], int]:
    """Count the hashes that two owners share; `hashes` gives (hash, owner)."""
    owners_by_hash: dict[int, set[int]] = defaultdict(set)
    for value, owner in hashes:
        owners_by_hash[value].add(owner)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for owners in owners_by_hash.values():
        members = sorted(owners)
        for index, second in enumerate(members):
            for first in members[:index]:
                counts[names[first], names[second]] += 1
    return dict(counts)
