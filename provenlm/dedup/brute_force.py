"""Find all similar pairs by brute force.

They are the ground truth for recall and precision.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from provenlm.core.ngram_hashing import Hashes
from provenlm.dedup.containment import MIN_SHARED_NGRAMS


def brute_force_pairs(
    sets: Iterable[tuple[int, Hashes]],
    pivots: Mapping[int, Hashes],
    threshold: float,
    measure: Literal["jaccard", "containment"] = "jaccard",
) -> dict[tuple[int, int], float]:
    """Compare every set with every pivot by exact Jaccard similarity or containment.

    Returns the similarity of each pair (smaller row first) that reaches `threshold`; pairs by containment share MIN_SHARED_NGRAMS n-grams.

    Sets must be sorted and unique. Memory holds the pivots and one set.
    """
    rows = np.array(list(pivots), np.int64)
    sizes = np.array([len(pivots[row]) for row in rows.tolist()], np.int64)
    elements = np.concatenate([*pivots.values(), np.zeros(0, np.uint64)])
    order = np.argsort(elements, kind="stable")
    elements, owners = elements[order], np.repeat(np.arange(len(rows)), sizes)[order]
    pairs: dict[tuple[int, int], float] = {}
    for row, members in sets:
        first, last = np.searchsorted(elements, members, "left"), np.searchsorted(elements, members, "right")
        counts = last - first
        element_indices = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        intersections = np.bincount(owners[element_indices], minlength=len(rows))
        if measure == "jaccard":
            wholes = np.maximum(1, sizes + len(members) - intersections)
        else:
            wholes = np.maximum(1, np.minimum(sizes, len(members)))
            intersections[intersections < MIN_SHARED_NGRAMS] = 0
        for pivot in np.flatnonzero(intersections / wholes >= threshold).tolist():
            pivot_row = int(rows[pivot])
            if pivot_row != row:
                pairs[min(row, pivot_row), max(row, pivot_row)] = float(intersections[pivot] / wholes[pivot])
    return pairs
