"""Find exact overlaps of token sequences by sorting suffixes.

Prefix doubling after Manber and Myers (1993): ranks of windows of 2k tokens come from ranks of windows of k.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.evaluation.arrays import IntArray

OVERLAP_TOKENS = 32  # shorter overlaps may be common phrases: the check of GPT-3 used 13 words


def window_ranks(ids: NDArray[Any], window_len: int) -> IntArray:
    """Rank the window of `window_len` tokens at each position.

    Equal windows have equal ranks. A window cut off by the end ranks before its extensions. ValueError unless `window_len` is a
    power of two.
    """
    if window_len < 1 or window_len & (window_len - 1):
        raise ValueError(f"window_len must be a power of two, got {window_len}")
    rank = np.unique(np.asarray(ids), return_inverse=True)[1].astype(np.int64)
    step = 1
    while step < window_len:
        next_rank = np.concatenate([rank[step:] + 1, np.zeros(min(step, len(rank)), np.int64)])
        rank = np.unique(rank * (len(rank) + 1) + next_rank, return_inverse=True)[1].astype(np.int64)
        step *= 2
    return rank


def shared_windows(ids: NDArray[Any], reference_ids: NDArray[Any], window_len: int) -> NDArray[np.bool_]:
    """Mark each window of `ids` that occurs in `reference_ids`.

    Windows have `window_len` tokens; the result is empty if `ids` is shorter than a window.
    """
    num_windows = len(ids) - window_len + 1
    if num_windows < 1:
        return np.zeros(0, np.bool_)
    separator = max(int(ids.max()), int(reference_ids.max(initial=0))) + 1  # in neither sequence, so that no window spans both
    rank = window_ranks(np.concatenate([reference_ids, [separator], ids]).astype(np.int64), window_len)
    reference_ranks = rank[: max(0, len(reference_ids) - window_len + 1)]
    return np.isin(rank[len(reference_ids) + 1 :][:num_windows], reference_ranks)


def overlap_mask(ids: NDArray[Any], reference_ids: NDArray[Any], window_len: int) -> NDArray[np.bool_]:
    """Mark each token of `ids` in a window that occurs in `reference_ids`."""
    is_shared = shared_windows(ids, reference_ids, window_len).astype(np.int64)
    num_begun = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_shared), np.full(len(ids) - len(is_shared), is_shared.sum())])
    positions = np.arange(len(ids))
    mask: NDArray[np.bool_] = num_begun[positions + 1] > num_begun[np.maximum(positions - window_len + 1, 0)]
    return mask


@dataclass(frozen=True)
class SuffixArray:
    """Hold a sequence and its positions in the order of their suffixes.

    Suffixes are compared up to `max_length` tokens.
    """

    order: IntArray
    token_bytes: bytes  # four bytes per token, most significant first, so that comparing bytes compares tokens
    max_length: int

    @classmethod
    def build(cls, ids: NDArray[Any], max_length: int) -> "SuffixArray":
        """Sort the positions of `ids`; `max_length` is rounded up to a power of two."""
        max_length = 1 << max(0, max_length - 1).bit_length()
        return cls(np.argsort(window_ranks(ids, max_length), kind="stable"), _to_bytes(ids), max_length)

    def longest_match(self, token_ids: Sequence[int]) -> int:
        """Return the length of the longest part of `token_ids` in the sequence.

        It is at most `max_length`.
        """
        token_bytes, best = _to_bytes(np.asarray(token_ids, dtype=np.int64)), 0
        for position in range(len(token_ids)):
            if len(token_ids) - position <= best:
                break
            best = max(best, self._longest_prefix(token_bytes[4 * position : 4 * (position + self.max_length)]))
        return best

    def _longest_prefix(self, query: bytes) -> int:
        """Return the length of the longest prefix of `query` in the sequence.

        One of its neighbours in sorted order has that prefix.
        """
        insertion = bisect_left(range(len(self.order)), query, key=self._window)
        return max(
            (_common_prefix(query, self._window(n)) for n in (insertion - 1, insertion) if 0 <= n < len(self.order)), default=0
        )

    def _window(self, rank: int) -> bytes:
        start = 4 * int(self.order[rank])
        return self.token_bytes[start : start + 4 * self.max_length]


def _to_bytes(ids: NDArray[Any]) -> bytes:
    return np.asarray(ids).astype(">u4").tobytes()


def _common_prefix(a: bytes, b: bytes) -> int:
    """Return the number of equal leading tokens."""
    min_length = min(len(a), len(b)) // 4
    differ = np.frombuffer(a, ">u4", min_length) != np.frombuffer(b, ">u4", min_length)
    return int(differ.argmax()) if differ.any() else min_length
