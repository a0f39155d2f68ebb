"""Bytes or numbers in, 64-bit hashes out: of every word of a text and of every window of neighbours, the same on every machine and in every run."""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
WHITESPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\v\f\r", np.uint8))


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which each input bit moves about half of the output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


BYTES = mix(np.arange(1, 257, dtype=np.uint64))


def spans(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of the words of `data`: its longest runs without ASCII whitespace."""
    inside = np.zeros(len(data) + 2, np.int8)
    inside[1:-1] = ~WHITESPACE[data]
    edges = np.diff(inside)
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def pieces(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """A hash of each `data[start:end]`: a polynomial over its bytes modulo 2**64 (Karp and Rabin 1987), read off prefix sums."""
    size = len(data)
    powers = np.cumprod(np.full(size, BASE, np.uint64))
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(BYTES[data] * powers)])
    shifts = np.cumprod(np.full(size + 1, pow(BASE, -1, 1 << 64), np.uint64))
    return mix((prefix[ends] - prefix[starts]) * shifts[starts] + (ends - starts).astype(np.uint64))


def words(data: bytes) -> Hashes:
    """A hash of each word of `data`, in order, repeats included."""
    array = np.frombuffer(data, np.uint8)
    return pieces(array, *spans(array))


def windows(values: Hashes, size: int) -> Hashes:
    """A hash of each run of `size` neighbours; of all of them together when there are fewer. Empty for no values."""
    size = min(size, len(values))
    count = len(values) - size + 1 if size else 0
    hashes = np.full(count, size, np.uint64)
    for offset in range(size):
        hashes = mix(hashes * np.uint64(BASE) + values[offset : offset + count])
    return hashes
