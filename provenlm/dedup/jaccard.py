"""Compute exact Jaccard similarities of n-gram sets with bounded memory."""

import tempfile
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.progress import progress_bar

RowArray = NDArray[np.int64]
MAX_CACHE_BYTES = 48 << 20  # bytes of sets in memory


class SetStore:
    """Store sets of hashes by row on disk.

    The most recently used ones are cached in memory, up to MAX_CACHE_BYTES.
    """

    def __init__(self, sets: Iterable[tuple[int, Hashes]]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the object)
        self._locations: dict[int, tuple[int, int]] = {}
        self._cache: OrderedDict[int, Hashes] = OrderedDict()
        self._cache_bytes = offset = 0
        for row, members in sets:
            self._locations[row] = (offset, len(members))
            offset += self._file.write(members.tobytes())

    def __getitem__(self, row: int) -> Hashes:
        if row in self._cache:
            self._cache.move_to_end(row)
            return self._cache[row]
        offset, count = self._locations[row]
        self._file.seek(offset)
        members = np.frombuffer(self._file.read(8 * count), np.uint64)
        self._cache[row] = members
        self._cache_bytes += members.nbytes
        while self._cache_bytes > MAX_CACHE_BYTES and len(self._cache) > 2:
            self._cache_bytes -= self._cache.popitem(last=False)[1].nbytes
        return members

    def size(self, row: int) -> int:
        """Return the number of members of a set."""
        return self._locations[row][1]

    def __enter__(self) -> "SetStore":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def jaccard_similarities(pairs: RowArray, sets: SetStore) -> NDArray[np.float64]:
    """Compute the Jaccard similarity of each pair of rows, (n, 2) to (n,)."""
    similarities = np.empty(len(pairs))
    with progress_bar("compare candidates", "pairs", len(pairs)) as bar:
        for index, (first_row, second_row) in enumerate(pairs.tolist()):
            similarities[index] = jaccard(sets[first_row], sets[second_row])
            bar.update()
    return similarities


@jit
def intersection_size(first: Hashes, second: Hashes) -> int:
    """Count the common members of two sorted sets."""
    first_index = second_index = size = 0
    while first_index < len(first) and second_index < len(second):
        if first[first_index] == second[second_index]:
            size += 1
            first_index += 1
            second_index += 1
        elif first[first_index] < second[second_index]:
            first_index += 1
        else:
            second_index += 1
    return size


def jaccard(first: Hashes, second: Hashes) -> float:
    """Compute the Jaccard similarity of two sorted sets; 0 if both are empty."""
    intersection = intersection_size(first, second)
    return intersection / max(1, len(first) + len(second) - intersection)
