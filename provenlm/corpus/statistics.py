"""A text as UTF-8 in, the numbers that filters judge it by out: one pass over its bytes and one over its words a length of n-gram.

A word is a run without ASCII whitespace; a line is counted when it holds a word; lengths are in characters. Bytes above 127
count as letters, which holds for the alphabets of most languages and is wrong for typographic signs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from provenlm.corpus import counting
from provenlm.corpus.hashing import words

STOP_WORDS = (b"the", b"be", b"to", b"of", b"and", b"that", b"have", b"with")  # Gopher, arXiv 2112.11446, appendix A.1
STOP_HASHES = words(b" ".join(STOP_WORDS))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts and shares (0 to 1) of one text; every share of a text without words is 0. Characters of whitespace are no part of shares."""

    words: float
    word_length: float  # mean characters of a word
    letter_words: float  # share of words with a letter
    symbol_words: float  # number signs and ellipses per word
    digits: float  # share of characters
    control: float  # control characters and replacement characters per byte
    long_words: float  # share of characters in words longer than LONG_WORD
    short_lines: float  # share of lines of at most SHORT_LINE characters
    repeated_lines: float  # share of characters of lines in lines that stood before
    top_bigram: float  # share of characters in the most frequent pair of words
    repeated_ngrams: float  # share of characters of words in runs of 10 words that stood before; each word counts once
    stop_words: float  # how many different ones of STOP_WORDS
    bullet_lines: float  # share of lines that begin with -, * or a bullet
    ellipsis_lines: float  # share of lines that end in an ellipsis
    ended_lines: float  # share of lines that end in . ? ! or a quotation mark behind one
    line_breaks: float  # line feeds per word
    lines_again: float  # share of lines that stood before
    paragraphs_again: float  # share of paragraphs (lines up to a blank one) that stood before
    repeated_paragraphs: float  # share of characters of lines in paragraphs that stood before
    top_trigram: float
    top_4gram: float
    repeated_5grams: float
    repeated_6grams: float
    repeated_7grams: float
    repeated_8grams: float
    repeated_9grams: float
    sentences: float  # ends of sentences (. ? ! before whitespace or a quotation mark) in lines of 3 words or more that end in one
    braces: float  # how many { and }
    punctuation: float  # share of characters that are ASCII punctuation
    mean_line: float  # characters of a line
    longest_line: float


@lru_cache(maxsize=2)
def measure(data: bytes) -> Statistics:
    """The statistics of `data`. The last texts are remembered: rules and scores ask for the same one after another."""
    found: NDArray[np.float64] = counting.count(np.frombuffer(data, np.uint8), STOP_HASHES)
    return Statistics(*found.tolist())
