"""Pairs of records and their shingle sets in, how similar the two of each pair are out. In memory is a bounded share of the sets."""

import tempfile
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import compiled
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.progress import progress

Rows = NDArray[np.int64]
HELD = 48 << 20  # bytes of sets in memory


class Sets:
    """Sets of hashes by row, on disk; those that were asked for last are in memory too."""

    def __init__(self, sets: Iterable[tuple[int, Hashes]]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the object)
        self._places: dict[int, tuple[int, int]] = {}
        self._held: OrderedDict[int, Hashes] = OrderedDict()
        self._bytes = place = 0
        for row, members in sets:
            self._places[row] = (place, len(members))
            place += self._file.write(members.tobytes())

    def __getitem__(self, row: int) -> Hashes:
        if row in self._held:
            self._held.move_to_end(row)
            return self._held[row]
        place, count = self._places[row]
        self._file.seek(place)
        members = np.frombuffer(self._file.read(8 * count), np.uint64)
        self._held[row] = members
        self._bytes += members.nbytes
        while self._bytes > HELD and len(self._held) > 2:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return members

    def __enter__(self) -> "Sets":
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()


def compare(pairs: Rows, sets: Sets) -> NDArray[np.float64]:
    """The Jaccard similarity of each pair of rows, (n, 2) to (n,)."""
    found = np.empty(len(pairs))
    with progress("compare candidates", "pairs", len(pairs)) as bar:
        for place, (one, other) in enumerate(pairs.tolist()):
            found[place] = jaccard(sets[one], sets[other])
            bar.advance()
    return found


@compiled
def _shared(one: Hashes, other: Hashes) -> int:
    first = second = shared = 0
    while first < len(one) and second < len(other):
        if one[first] == other[second]:
            shared += 1
            first += 1
            second += 1
        elif one[first] < other[second]:
            first += 1
        else:
            second += 1
    return shared


def jaccard(one: Hashes, other: Hashes) -> float:
    """Shared elements over all elements of two sorted sets; 0 if both are empty."""
    shared = _shared(one, other)
    return shared / max(1, len(one) + len(other) - shared)
