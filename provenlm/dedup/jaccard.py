"""Pairs of records and their shingle sets in, how similar the two of each pair are out. In memory is a bounded share of the sets."""

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
    """Sets of hashes by row, on disk; those that were asked for last are in memory too."""

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

    def __enter__(self) -> "SetStore":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def jaccard_similarities(pairs: RowArray, sets: SetStore) -> NDArray[np.float64]:
    """The Jaccard similarity of each pair of rows, (n, 2) to (n,)."""
    similarities = np.empty(len(pairs))
    with progress_bar("compare candidates", "pairs", len(pairs)) as bar:
        for index, (first_row, second_row) in enumerate(pairs.tolist()):
            similarities[index] = jaccard(sets[first_row], sets[second_row])
            bar.update()
    return similarities


@jit
def _intersection_size(left: Hashes, right: Hashes) -> int:
    left_index = right_index = size = 0
    while left_index < len(left) and right_index < len(right):
        if left[left_index] == right[right_index]:
            size += 1
            left_index += 1
            right_index += 1
        elif left[left_index] < right[right_index]:
            left_index += 1
        else:
            right_index += 1
    return size


def jaccard(left: Hashes, right: Hashes) -> float:
    """Shared elements over all elements of two sorted sets; 0 if both are empty."""
    intersection = _intersection_size(left, right)
    return intersection / max(1, len(left) + len(right) - intersection)
