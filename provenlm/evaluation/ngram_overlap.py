"""Two token sequences in, what the one repeats of the other out: exact, by sorting suffixes.

Prefix doubling after Manber and Myers (1993): ranks of windows of 2k tokens come from ranks of windows of k.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
VERBATIM = 32  # tokens; shorter stretches are phrases that two authors may write: GPT-3's own check used 13 words


def ranks(ids: NDArray[Any], length: int) -> Ints:
    """For each place the rank of the window of `length` tokens that begins there: equal where the windows are equal.

    A window that runs over the end is shorter and ranks before those that go on. ValueError unless `length` is a power of two.
    """
    if length < 1 or length & (length - 1):
        raise ValueError(f"length is {length}; a power of two would be right")
    rank = np.unique(np.asarray(ids), return_inverse=True)[1].astype(np.int64)
    step = 1
    while step < length:
        behind = np.concatenate([rank[step:] + 1, np.zeros(min(step, len(rank)), np.int64)])
        rank = np.unique(rank * (len(rank) + 1) + behind, return_inverse=True)[1].astype(np.int64)
        step *= 2
    return rank


def repeated_windows(ids: NDArray[Any], others: NDArray[Any], length: int) -> NDArray[np.bool_]:
    """For each window of `length` tokens of `ids`: whether it occurs in `others`. Shorter than a window: an empty array."""
    count = len(ids) - length + 1
    if count < 1:
        return np.zeros(0, np.bool_)
    apart = max(int(ids.max()), int(others.max(initial=0))) + 1  # a token of neither, so that no window spans both
    rank = ranks(np.concatenate([others, [apart], ids]).astype(np.int64), length)
    there = rank[: max(0, len(others) - length + 1)]
    return np.isin(rank[len(others) + 1 :][:count], there)


def covered(ids: NDArray[Any], others: NDArray[Any], length: int) -> NDArray[np.bool_]:
    """For each token of `ids`: whether a window of `length` tokens around it occurs in `others`."""
    seen = repeated_windows(ids, others, length).astype(np.int64)
    begun = np.concatenate([np.zeros(1, np.int64), np.cumsum(seen), np.full(len(ids) - len(seen), seen.sum())])
    places = np.arange(len(ids))
    inside: NDArray[np.bool_] = begun[places + 1] > begun[np.maximum(places - length + 1, 0)]
    return inside


@dataclass(frozen=True)
class Suffixes:
    """A sequence with its places sorted by the `depth` tokens that follow each."""

    order: Ints
    text: bytes  # each token as four bytes, most significant first: comparing bytes compares tokens
    depth: int

    @classmethod
    def of(cls, ids: NDArray[Any], depth: int) -> "Suffixes":
        """Sort the places of `ids`; `depth` is rounded up to a power of two."""
        depth = 1 << max(0, depth - 1).bit_length()
        return cls(np.argsort(ranks(ids, depth), kind="stable"), _text(ids), depth)

    def longest_shared(self, sample: Sequence[int]) -> int:
        """Length of the longest stretch of `sample` that occurs here too, at most `depth`."""
        text, best = _text(np.asarray(sample, dtype=np.int64)), 0
        for place in range(len(sample)):
            if len(sample) - place <= best:
                break
            best = max(best, self._longest_at(text[4 * place : 4 * (place + self.depth)]))
        return best

    def _longest_at(self, wanted: bytes) -> int:
        """How many of the first tokens of `wanted` occur here: its neighbours in sorted order share the most with it."""
        above = bisect_left(range(len(self.order)), wanted, key=self._window)
        return max((_shared(wanted, self._window(n)) for n in (above - 1, above) if 0 <= n < len(self.order)), default=0)

    def _window(self, place: int) -> bytes:
        start = 4 * int(self.order[place])
        return self.text[start : start + 4 * self.depth]


def _text(ids: NDArray[Any]) -> bytes:
    return np.asarray(ids).astype(">u4").tobytes()


def _shared(one: bytes, other: bytes) -> int:
    """How many tokens two windows have in common from their beginning."""
    short = min(len(one), len(other)) // 4
    differ = np.frombuffer(one, ">u4", short) != np.frombuffer(other, ">u4", short)
    return int(differ.argmax()) if differ.any() else short
