"""Hash words and n-grams to 64 bits, reproducibly across machines and runs."""

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import jit

Hashes = NDArray[np.uint64]
ByteArray = NDArray[np.uint8]

BASE = 0x9E3779B97F4A7C15
IS_WHITESPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\v\f\r", np.uint8))

_BASE = np.uint64(BASE)
_MULTIPLIER_1, _MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


@jit
def splitmix64(value: np.uint64) -> np.uint64:
    """Apply the finalizer of SplitMix64 (Steele, Lea, Flood 2014).

    It is a bijection in which each input bit flips about half of the output bits.
    """
    value = (value ^ (value >> _30)) * _MULTIPLIER_1
    value = (value ^ (value >> _27)) * _MULTIPLIER_2
    return value ^ (value >> _31)


@jit
def splitmix64_array(values: Hashes) -> Hashes:
    """Apply `splitmix64` to each value."""
    hashes = np.empty_like(values)
    for index in range(len(values)):
        hashes[index] = splitmix64(values[index])
    return hashes


BYTE_HASHES = splitmix64_array(np.arange(1, 257, dtype=np.uint64))


@jit
def _hash_words(data: ByteArray) -> Hashes:
    hashes = np.empty(len(data) // 2 + 1, np.uint64)
    count = length = 0
    value, power = np.uint64(0), np.uint64(1)
    for position in range(len(data) + 1):
        if position == len(data) or IS_WHITESPACE[data[position]]:
            if length:
                hashes[count] = splitmix64(value + np.uint64(length))
                count, length = count + 1, 0
                value, power = np.uint64(0), np.uint64(1)
        else:
            value += BYTE_HASHES[data[position]] * power
            power *= _BASE
            length += 1
    return hashes[:count]


@jit
def _hash_ngrams(values: Hashes, size: int) -> Hashes:
    size = min(size, len(values))
    hashes = np.empty(len(values) - size + 1 if size else 0, np.uint64)
    for index in range(len(hashes)):
        value = np.uint64(size)
        for offset in range(size):
            value = splitmix64(value * _BASE + values[index + offset])
        hashes[index] = value
    return hashes


def hash_words(data: bytes) -> Hashes:
    """Hash each word of `data`, in order, with repeats.

    A word is a maximal run without ASCII whitespace.

    The hash is a polynomial over the bytes modulo 2**64 (Karp and Rabin 1987), mixed with the word's length.
    """
    return _hash_words(np.frombuffer(data, np.uint8))


def hash_ngrams(values: Hashes, size: int) -> Hashes:
    """Hash each window of `size` neighbouring values.

    If there are fewer values, hash all together. Empty input gives no hashes.
    """
    return _hash_ngrams(values, size)


@jit
def _unique_in_place(sorted_values: Hashes) -> int:
    count = min(1, len(sorted_values))
    for index in range(1, len(sorted_values)):
        if sorted_values[index] != sorted_values[index - 1]:
            sorted_values[count] = sorted_values[index]
            count += 1
    return count


def sorted_unique(values: Hashes) -> Hashes:
    """Return the distinct values, sorted."""
    sorted_values = np.sort(values)
    return sorted_values[: _unique_in_place(sorted_values)].copy()


@jit
def _collapse_whitespace(data: ByteArray, spaces: NDArray[np.bool_]) -> ByteArray:
    collapsed = np.empty(len(data), np.uint8)
    count = 0
    gap = False
    for position in range(len(data)):
        if spaces[data[position]]:
            gap = count > 0
        else:
            if gap:
                collapsed[count] = 32
                count += 1
                gap = False
            collapsed[count] = data[position]
            count += 1
    return collapsed[:count]


IS_SPACE = IS_WHITESPACE | np.isin(np.arange(256), np.arange(0x1C, 0x20))  # where `str.split` splits ASCII text


def collapse_whitespace(text: bytes) -> bytes:
    """Replace each run of whitespace in ASCII `text` by one space and strip it.

    The result equals `" ".join(text.split())`.
    """
    return _collapse_whitespace(np.frombuffer(text, np.uint8), IS_SPACE).tobytes()
