"""Compare sets of pieces by the distributions of their musical metrics.

This is the overlap area of Yang and Lerch (2020).
"""

from collections.abc import Sequence

import numpy as np

from provenlm.evaluation.arrays import FloatArray

NUM_GRID_POINTS = 512


def overlap_area(first: FloatArray, second: FloatArray) -> float:
    """Return the area under the lower of two kernel density estimates.

    It is 1 for equal and 0 for disjoint distributions.
    The bandwidth is that of Scott for the first set, which is the reference. ValueError for an empty set.
    """
    if not len(first) or not len(second):
        raise ValueError(f"both sets must have a value, got {len(first)} and {len(second)}")
    spread = float(first.std(ddof=1)) if len(first) > 1 else 0.0
    width = max(spread * len(first) ** -0.2, 1e-3 * max(1.0, float(np.abs(first).max())))
    low, high = min(first.min(), second.min()) - 4 * width, max(first.max(), second.max()) + 4 * width
    num_points = int(min(1 << 16, max(NUM_GRID_POINTS, 8 * (high - low) / width)))
    grid = np.linspace(low, high, num_points)
    area = np.minimum(_density(first, grid, width), _density(second, grid, width)).sum() * (grid[1] - grid[0])
    return float(min(1.0, area))


def _density(values: FloatArray, grid: FloatArray, width: float) -> FloatArray:
    density = np.zeros(len(grid))
    for value in values:
        density += np.exp(-0.5 * ((grid - value) / width) ** 2)
    result: FloatArray = density / (len(values) * width * np.sqrt(2 * np.pi))
    return result


def overlap_areas(reference: Sequence[dict[str, float]], pieces: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the overlap area of each metric of two sets of pieces."""
    return {
        name: overlap_area(np.array([piece[name] for piece in reference]), np.array([piece[name] for piece in pieces]))
        for name in reference[0]
    }
