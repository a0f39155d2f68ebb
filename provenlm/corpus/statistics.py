"""A text as UTF-8 in, the numbers that filters judge it by out.

A word is a run without ASCII whitespace; a line is counted when it holds a word; lengths are in characters. Bytes above 127
count as letters, which holds for the alphabets of most languages and is wrong for typographic signs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from provenlm.corpus import hashing

Flags = NDArray[np.bool_]
Offsets = NDArray[np.int64]

LONG_WORD = 60  # characters; a longer word is a key, a digest or an encoded blob
SHORT_LINE = 30  # characters; FineWeb, arXiv 2406.17557, section 3.4
STOP_WORDS = (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")  # Gopher, arXiv 2112.11446, appendix A.1
REPLACEMENT = "�".encode()


def _table(characters: bytes) -> Flags:
    return np.isin(np.arange(256), np.frombuffer(characters, np.uint8))


LETTER = _table(bytes(range(65, 91)) + bytes(range(97, 123)) + bytes(range(128, 256)))
DIGIT = _table(b"0123456789")
CONTROL = _table(bytes(sorted(set(range(32)) - set(b"\t\n\v\f\r"))) + b"\x7f")
STOP_HASHES = np.sort(hashing.words(b" ".join(STOP_WORDS)))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts and shares (0 to 1) of one text; every share of a text without words is 0."""

    words: int
    word_length: float  # mean characters of a word
    letter_words: float  # share of words with a letter
    symbol_words: float  # number signs and ellipses per word
    digits: float  # share of characters that are not whitespace
    control: float  # control characters and replacement characters, share of characters
    long_words: float  # share of characters in words longer than LONG_WORD
    short_lines: float  # share of lines of at most SHORT_LINE characters
    repeated_lines: float  # share of characters of lines in lines that stood before
    top_bigram: float  # share of characters in the most frequent pair of words
    repeated_ngrams: float  # share of characters of words in runs of 10 words that stood before
    stop_words: int  # how many different ones of STOP_WORDS


@lru_cache(maxsize=2)
def measure(data: bytes) -> Statistics:
    """The statistics of `data`. The last texts are remembered: rules and scores ask for the same one after another."""
    array = np.frombuffer(data, np.uint8)
    starts, ends = hashing.spans(array)
    if len(starts) == 0:
        return Statistics(0, 0.0, 0.0, 0.0, 0.0, _control(data, array), 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    characters = _prefix((array & 0xC0) != 0x80)
    lengths = characters[ends] - characters[starts]
    hashes = hashing.pieces(array, starts, ends)
    lines = _lines(array, characters)
    solid = int(lengths.sum())
    letters = _prefix(LETTER[array])
    return Statistics(
        words=len(starts),
        word_length=float(lengths.mean()),
        letter_words=float((letters[ends] > letters[starts]).mean()),
        symbol_words=(data.count(b"#") + data.count(b"...") + data.count("…".encode())) / len(starts),
        digits=int(DIGIT[array].sum()) / solid,
        control=_control(data, array),
        long_words=int(lengths[lengths > LONG_WORD].sum()) / solid,
        short_lines=float((lines[1] <= SHORT_LINE).mean()),
        repeated_lines=_repeated(*lines),
        top_bigram=_top(hashes, lengths, 2) / solid,
        repeated_ngrams=_repeated_ngrams(hashes, lengths, 10) / solid,
        stop_words=int(np.isin(STOP_HASHES, hashes).sum()),
    )


def _prefix(flags: Flags) -> Offsets:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(flags, dtype=np.int64)])


def _control(data: bytes, array: NDArray[np.uint8]) -> float:
    return (int(CONTROL[array].sum()) + data.count(REPLACEMENT)) / max(1, len(array))


def _lines(array: NDArray[np.uint8], characters: Offsets) -> tuple[hashing.Hashes, Offsets]:
    """Hash and length of each line with a word in it, whitespace around it left out."""
    inked = np.flatnonzero(~hashing.WHITESPACE[array])
    breaks = np.concatenate([[-1], np.flatnonzero(array == 10), [len(array)]])
    first = np.searchsorted(inked, breaks[:-1] + 1)
    last = np.searchsorted(inked, breaks[1:]) - 1
    held = last >= first
    starts, ends = inked[first[held]], inked[last[held]] + 1
    return hashing.pieces(array, starts, ends), characters[ends] - characters[starts]


def _repeated(hashes: hashing.Hashes, lengths: Offsets) -> float:
    """Share of `lengths` that belongs to a hash which stood before."""
    first = np.unique(hashes, return_index=True)[1]
    return 1 - int(lengths[first].sum()) / int(lengths.sum())


def _top(hashes: hashing.Hashes, lengths: Offsets, size: int) -> int:
    """Characters in the occurrences of the most frequent window of `size` words, 0 if none occurs twice."""
    if len(hashes) < size:
        return 0
    first, counts = np.unique(hashing.windows(hashes, size), return_index=True, return_counts=True)[1:]
    found = int(counts.max())
    start = int(first[counts == found].min())
    return found * int(lengths[start : start + size].sum()) if found > 1 else 0


def _repeated_ngrams(hashes: hashing.Hashes, lengths: Offsets, size: int) -> int:
    """Characters of the words that lie in a window of `size` words which stood before; each word counts once."""
    if len(hashes) < size:
        return 0
    grams = hashing.windows(hashes, size)
    again = np.ones(len(grams), bool)
    again[np.unique(grams, return_index=True)[1]] = False
    cover = np.zeros(len(hashes) + 1, np.int64)
    cover[: len(grams)] += again
    cover[size : size + len(grams)] -= again
    return int(lengths[np.cumsum(cover[:-1]) > 0].sum())
