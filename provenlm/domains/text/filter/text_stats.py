"""Texts as UTF-8 in, the numbers that filters judge them by out, one array a number.

A word is a run without ASCII whitespace; a line is counted when it holds a word; lengths are in characters. Bytes above 127
count as letters, which holds for the alphabets of most languages and is wrong for typographic signs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.domains.text.filter import text_stats_kernels
from provenlm.domains.text.filter.text_stats_kernels import COUNTS, LONGEST

Column = NDArray[np.float64]

DIGITS = np.isin(np.arange(256), np.frombuffer(b"0123456789", np.uint8))
PUNCTUATION = np.isin(np.arange(256), [*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)])
CONTROL = np.isin(np.arange(256), [*set(range(32)) - set(b"\t\n\v\f\r"), 127])


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts and shares (0 to 1) of each text; every share of a text without words is 0. Characters of whitespace are no part of shares."""

    words: Column
    word_length: Column  # mean characters of a word
    letter_words: Column  # share of words with a letter
    symbol_words: Column  # number signs and ellipses per word
    digits: Column  # share of characters
    control: Column  # control characters and replacement characters per byte
    long_words: Column  # share of characters in words longer than LONG_WORD
    short_lines: Column  # share of lines of at most SHORT_LINE characters
    repeated_lines: Column  # share of characters of lines in lines that stood before
    top_bigram: Column  # share of characters in the most frequent pair of words
    repeated_ngrams: Column  # share of characters of words in runs of 10 words that stood before; each word counts once
    stop_words: Column  # how many different ones of STOP_WORDS
    bullet_lines: Column  # share of lines that begin with -, * or a bullet
    ellipsis_lines: Column  # share of lines that end in an ellipsis
    ended_lines: Column  # share of lines that end in . ? ! or a quotation mark behind one
    line_breaks: Column  # line feeds per word
    lines_again: Column  # share of lines that stood before
    paragraphs_again: Column  # share of paragraphs (lines up to a blank one) that stood before
    repeated_paragraphs: Column  # share of characters of lines in paragraphs that stood before
    top_trigram: Column
    top_4gram: Column
    repeated_5grams: Column
    repeated_6grams: Column
    repeated_7grams: Column
    repeated_8grams: Column
    repeated_9grams: Column
    sentences: Column  # ends of sentences (. ? ! before whitespace or a quotation mark) in lines of 3 words or more that end in one
    braces: Column  # how many { and }
    punctuation: Column  # share of characters that are ASCII punctuation
    mean_line: Column  # characters of a line
    longest_line: Column


def measure(texts: Sequence[bytes]) -> Statistics:
    """The statistics of `texts`, arrays (texts,) in their order."""
    ends, count = np.cumsum([0, *map(len, texts)]), len(texts)
    counts, bytes_, grams = (np.zeros((count, size), np.int64) for size in (COUNTS, 256, LONGEST + 1))
    text_stats_kernels.count(np.frombuffer(b"".join(texts), np.uint8), ends, counts, bytes_, grams)
    some = counts[:, text_stats_kernels.WORDS] > 0

    def of(counted: NDArray[np.int64], whole: NDArray[np.int64]) -> Column:
        share: Column = np.where(some, counted, 0) / np.maximum(1, whole)
        return share

    words, solid, lines, line_characters, paragraphs = (
        counts[:, place]
        for place in (
            text_stats_kernels.WORDS,
            text_stats_kernels.SOLID,
            text_stats_kernels.LINES,
            text_stats_kernels.LINE_CHARACTERS,
            text_stats_kernels.PARAGRAPHS,
        )
    )
    symbols = bytes_[:, ord("#")] + counts[:, text_stats_kernels.ELLIPSES]
    return Statistics(
        words=words.astype(np.float64),
        word_length=of(solid, words),
        letter_words=of(counts[:, text_stats_kernels.LETTERED], words),
        symbol_words=of(symbols, words),
        digits=of(bytes_[:, DIGITS].sum(1), solid),
        control=of(bytes_[:, CONTROL].sum(1) + counts[:, text_stats_kernels.REPLACEMENTS], np.diff(ends)),
        long_words=of(counts[:, text_stats_kernels.LONG], solid),
        short_lines=of(counts[:, text_stats_kernels.SHORT], lines),
        repeated_lines=of(counts[:, text_stats_kernels.LINE_CHARACTERS_AGAIN], line_characters),
        top_bigram=of(grams[:, 2], solid),
        repeated_ngrams=of(grams[:, LONGEST], solid),
        stop_words=counts[:, text_stats_kernels.STOPS].astype(np.float64),
        bullet_lines=of(counts[:, text_stats_kernels.BULLETS], lines),
        ellipsis_lines=of(counts[:, text_stats_kernels.TRAILING], lines),
        ended_lines=of(counts[:, text_stats_kernels.ENDED], lines),
        line_breaks=of(bytes_[:, 10], words),
        lines_again=of(counts[:, text_stats_kernels.LINES_AGAIN], lines),
        paragraphs_again=of(counts[:, text_stats_kernels.PARAGRAPHS_AGAIN], paragraphs),
        repeated_paragraphs=of(counts[:, text_stats_kernels.PARAGRAPH_CHARACTERS_AGAIN], line_characters),
        top_trigram=of(grams[:, 3], solid),
        top_4gram=of(grams[:, 4], solid),
        repeated_5grams=of(grams[:, 5], solid),
        repeated_6grams=of(grams[:, 6], solid),
        repeated_7grams=of(grams[:, 7], solid),
        repeated_8grams=of(grams[:, 8], solid),
        repeated_9grams=of(grams[:, 9], solid),
        sentences=counts[:, text_stats_kernels.SENTENCES].astype(np.float64),
        braces=(bytes_[:, ord("{")] + bytes_[:, ord("}")]).astype(np.float64),
        punctuation=of(bytes_[:, PUNCTUATION].sum(1), solid),
        mean_line=of(line_characters, lines),
        longest_line=counts[:, text_stats_kernels.LONGEST_LINE].astype(np.float64),
    )
