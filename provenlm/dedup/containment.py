"""Find pairs of sets of which one mostly contains the other.

They are excerpts, first halves, and arrangements with added parts.

The containment of two sets is the size of their intersection over that of the smaller one (Broder 1997). A first half has a Jaccard
similarity of 0.5 to the whole and a containment of 1. The search is exact: an inverted index counts what every two sets share. For corpora
with more than MAX_NGRAMS n-grams it looks at a sample of them, chosen by hash (Irber et al. 2022), and verifies what it finds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import Hashes, splitmix64_array
from provenlm.core.progress import progress_bar
from provenlm.dedup.jaccard import RowArray, SetStore, intersection_size

MAX_NGRAMS = 1 << 24  # n-grams in memory, at about 30 bytes each
MIN_SHARED_NGRAMS = 8  # below it, common n-grams such as parts of scales make pairs
SAMPLED_TOLERANCE = 0.8  # a sampled containment this far below the threshold is still verified


class ContainmentPairs(NamedTuple):
    """Hold pairs of rows (n, 2), the smaller row first, and their containments (n,)."""

    pairs: RowArray
    containments: NDArray[np.float64]


def find_contained(sets: SetStore, rows: Sequence[int], threshold: float, max_ngrams: int = MAX_NGRAMS) -> ContainmentPairs:
    """Return the pairs of `rows` with a containment of at least `threshold`.

    They share MIN_SHARED_NGRAMS n-grams or more.
    """
    scale = max(1, math.ceil(sum(sets.size(row) for row in rows) / max_ngrams))
    index = InvertedIndex.create([_sampled(sets[row], scale) for row in rows])
    min_ratio, min_shared = (threshold, MIN_SHARED_NGRAMS) if scale == 1 else (threshold * SAMPLED_TOLERANCE, 2)
    pairs: list[tuple[int, int]] = []
    containments: list[float] = []
    with progress_bar("compare n-grams", "records", len(rows)) as bar:
        for first in range(len(rows)):
            bar.update()
            for second in index.similar_sets(first, min_ratio, min_shared):
                row, other_row = rows[first], rows[second]
                shared = intersection_size(sets[row], sets[other_row])
                containment = shared / max(1, min(sets.size(row), sets.size(other_row)))
                if containment >= threshold and shared >= MIN_SHARED_NGRAMS:
                    pairs.append((min(row, other_row), max(row, other_row)))
                    containments.append(containment)
    return ContainmentPairs(np.array(pairs, np.int64).reshape(-1, 2), np.array(containments))


def _sampled(members: Hashes, scale: int) -> Hashes:
    """Return one in `scale` of the members; the same ones of every set."""
    return members if scale == 1 else members[splitmix64_array(members) < np.uint64((1 << 64) // scale)]


class InvertedIndex(NamedTuple):
    """Hold sets by member, in increasing order.

    `owners` are the sets that the members belong to.

    `positions[offsets[n] : offsets[n + 1]]` are the places of the members of set n.
    """

    members: Hashes
    owners: NDArray[np.int32]
    positions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int32]
    partners: NDArray[np.int32]

    @classmethod
    def create(cls, sets: Sequence[Hashes]) -> "InvertedIndex":
        """Build the index of sets of unique members."""
        sizes = np.array([len(members) for members in sets], np.int64)
        members = np.concatenate([*sets, np.zeros(0, np.uint64)])
        order = np.argsort(members, kind="stable")  # stable: the owners of a member are in increasing order
        positions = np.empty_like(order)
        positions[order] = np.arange(len(order))
        owners = np.repeat(np.arange(len(sets), dtype=np.int32), sizes)[order]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        return cls(members[order], owners, positions, offsets, np.zeros(len(sets), np.int32), np.zeros(len(sets), np.int32))

    def similar_sets(self, number: int, min_ratio: float, min_shared: int) -> list[int]:
        """Return the sets after set `number` that share much with it.

        That is at least `min_shared` members and `min_ratio` of the smaller set.
        """
        num_partners = _count_shared(number, self.members, self.owners, self.positions, self.offsets, self.counts, self.partners)
        candidates = self.partners[:num_partners]
        shared = self.counts[candidates]
        self.counts[candidates] = 0
        smaller = np.minimum(
            self.offsets[number + 1] - self.offsets[number], self.offsets[candidates + 1] - self.offsets[candidates]
        )
        selected: list[int] = candidates[(shared >= min_shared) & (shared >= min_ratio * smaller)].tolist()
        return sorted(selected)


@jit
def _count_shared(
    number: int,
    members: Hashes,
    owners: NDArray[np.int32],
    positions: NDArray[np.int64],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int32],
    partners: NDArray[np.int32],
) -> int:
    """Count what each later set shares with a set.

    The counts are in `counts`, these sets in `partners`; returns their number.
    """
    num_partners = 0
    for flat in range(offsets[number], offsets[number + 1]):
        position = positions[flat] + 1
        while position < len(members) and members[position] == members[position - 1]:
            owner = owners[position]
            if counts[owner] == 0:
                partners[num_partners] = owner
                num_partners += 1
            counts[owner] += 1
            position += 1
    return num_partners
