"""Bytes or numbers in, 64-bit hashes out: of every word of a text and of every window of neighbours, the same on every machine and in every run."""

import numpy as np
from numpy.typing import NDArray

from provenlm.core.jit import compiled

Hashes = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

BASE = 0x9E3779B97F4A7C15
WHITESPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\v\f\r", np.uint8))

_BASE = np.uint64(BASE)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


@compiled
def mixed(value: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which each input bit moves about half of the output bits."""
    value = (value ^ (value >> _30)) * _FIRST
    value = (value ^ (value >> _27)) * _SECOND
    return value ^ (value >> _31)


@compiled
def mix(values: Hashes) -> Hashes:
    """`mixed` of each of `values`."""
    found = np.empty_like(values)
    for place in range(len(values)):
        found[place] = mixed(values[place])
    return found


BYTES = mix(np.arange(1, 257, dtype=np.uint64))


@compiled
def _words(data: Bytes) -> Hashes:
    found = np.empty(len(data) // 2 + 1, np.uint64)
    count = length = 0
    value, power = np.uint64(0), np.uint64(1)
    for place in range(len(data) + 1):
        if place == len(data) or WHITESPACE[data[place]]:
            if length:
                found[count] = mixed(value + np.uint64(length))
                count, length = count + 1, 0
                value, power = np.uint64(0), np.uint64(1)
        else:
            value += BYTES[data[place]] * power
            power *= _BASE
            length += 1
    return found[:count]


@compiled
def _windows(values: Hashes, size: int) -> Hashes:
    size = min(size, len(values))
    found = np.empty(len(values) - size + 1 if size else 0, np.uint64)
    for place in range(len(found)):
        value = np.uint64(size)
        for offset in range(size):
            value = mixed(value * _BASE + values[place + offset])
        found[place] = value
    return found


def words(data: bytes) -> Hashes:
    """A hash of each word of `data`, its longest runs without ASCII whitespace, in order, repeats included.

    It is a polynomial over the bytes modulo 2**64 (Karp and Rabin 1987), mixed with their number.
    """
    return _words(np.frombuffer(data, np.uint8))


def windows(values: Hashes, size: int) -> Hashes:
    """A hash of each run of `size` neighbours; of all of them together when there are fewer. Empty for no values."""
    return _windows(values, size)


@compiled
def _distinct(ordered: Hashes) -> int:
    count = min(1, len(ordered))
    for place in range(1, len(ordered)):
        if ordered[place] != ordered[place - 1]:
            ordered[count] = ordered[place]
            count += 1
    return count


def distinct(values: Hashes) -> Hashes:
    """The different ones of `values`, sorted."""
    ordered = np.sort(values)
    return ordered[: _distinct(ordered)].copy()


@compiled
def _collapse(data: Bytes, spaces: NDArray[np.bool_]) -> Bytes:
    found = np.empty(len(data), np.uint8)
    count = 0
    gap = False
    for place in range(len(data)):
        if spaces[data[place]]:
            gap = count > 0
        else:
            if gap:
                found[count] = 32
                count += 1
                gap = False
            found[count] = data[place]
            count += 1
    return found[:count]


SPACES = WHITESPACE | np.isin(np.arange(256), np.arange(0x1C, 0x20))  # what Python's `str.split` splits ASCII text at


def collapse(text: bytes) -> bytes:
    """`text`, which must be ASCII, each run of whitespace one space and none around it: as `" ".join(text.split())`."""
    return _collapse(np.frombuffer(text, np.uint8), SPACES).tobytes()
