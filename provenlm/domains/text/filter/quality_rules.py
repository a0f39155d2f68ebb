"""Define the published quality rules of Gopher, C4 and FineWeb on text statistics.

The defaults are those of the papers, which are made for prose on the web. Words are separated by whitespace, as in the Gopher paper;
an implementation that counts punctuation marks as words gives other numbers. Rules that need a language model or other pages are
omitted. C4's line rules and its list of bad words are in provenlm.domains.text.filter.c4_lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

import numpy as np

from provenlm.domains.text.filter.text_stats import TextStats


class Range(NamedTuple):
    """Limit a statistic to a range, both ends included."""

    statistic: str
    min_value: float
    max_value: float


def at_least(statistic: str, value: float) -> Range:
    """Allow `value` and more."""
    return Range(statistic, value, inf)


def at_most(statistic: str, value: float) -> Range:
    """Allow `value` and less."""
    return Range(statistic, -inf, value)


class QualityRules(Protocol):
    """List allowed ranges of text statistics in the order of checking."""

    def ranges(self) -> Sequence[Range]:
        """List the allowed ranges."""


def first_violations(rules: QualityRules, stats: TextStats) -> list[str | None]:
    """Return for each text the first statistic that is outside its range, or None."""
    violations: list[str | None] = [None] * len(stats.doc_words)
    for name, low, high in reversed(rules.ranges()):
        values = getattr(stats, name)
        for index in np.flatnonzero((values < low) | (values > high)).tolist():
            violations[index] = name
    return violations


@dataclass(frozen=True)
class GopherQuality:
    """Hold the Gopher quality rules.

    Rae et al., arXiv 2112.11446, appendix A.1. doc_words, avg_word_length: [min, max].
    """

    doc_words: tuple[float, ...] = (50, 100_000)
    avg_word_length: tuple[float, ...] = (3, 10)
    max_symbol_word_ratio: float = 0.1
    max_bullet_lines_ratio: float = 0.9
    max_ellipsis_lines_ratio: float = 0.3
    min_alpha_words_ratio: float = 0.8
    min_stop_words: float = 2

    def ranges(self) -> Sequence[Range]:
        """List the allowed ranges."""
        return (
            Range("doc_words", *self.doc_words),
            Range("avg_word_length", *self.avg_word_length),
            at_most("symbol_word_ratio", self.max_symbol_word_ratio),
            at_most("bullet_line_ratio", self.max_bullet_lines_ratio),
            at_most("ellipsis_line_ratio", self.max_ellipsis_lines_ratio),
            at_least("alpha_words_ratio", self.min_alpha_words_ratio),
            at_least("stop_words", self.min_stop_words),
        )

    def __post_init__(self) -> None:
        for name, pair in (("doc_words", self.doc_words), ("avg_word_length", self.avg_word_length)):
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name} must be [min, max], got {list(pair)}")


@dataclass(frozen=True)
class GopherRepetitionRules:
    """Hold the Gopher repetition rules.

    Rae et al., arXiv 2112.11446, table A1. All values are maxima.
    """

    dup_line_frac: float = 0.30
    dup_para_frac: float = 0.30
    dup_line_char_frac: float = 0.20
    dup_para_char_frac: float = 0.20
    top_2_gram_frac: float = 0.20
    top_3_gram_frac: float = 0.18
    top_4_gram_frac: float = 0.16
    dup_5_gram_frac: float = 0.15
    dup_6_gram_frac: float = 0.14
    dup_7_gram_frac: float = 0.13
    dup_8_gram_frac: float = 0.12
    dup_9_gram_frac: float = 0.11
    dup_10_gram_frac: float = 0.10

    def ranges(self) -> Sequence[Range]:
        """List the allowed ranges."""
        return (
            at_most("dup_line_frac", self.dup_line_frac),
            at_most("dup_para_frac", self.dup_para_frac),
            at_most("dup_line_char_frac", self.dup_line_char_frac),
            at_most("dup_para_char_frac", self.dup_para_char_frac),
            at_most("top_2_gram_frac", self.top_2_gram_frac),
            at_most("top_3_gram_frac", self.top_3_gram_frac),
            at_most("top_4_gram_frac", self.top_4_gram_frac),
            at_most("dup_5_gram_frac", self.dup_5_gram_frac),
            at_most("dup_6_gram_frac", self.dup_6_gram_frac),
            at_most("dup_7_gram_frac", self.dup_7_gram_frac),
            at_most("dup_8_gram_frac", self.dup_8_gram_frac),
            at_most("dup_9_gram_frac", self.dup_9_gram_frac),
            at_most("dup_10_gram_frac", self.dup_10_gram_frac),
        )


@dataclass(frozen=True)
class C4Quality:
    """Hold the C4 document rules.

    Raffel et al., arXiv 1910.10683, section 2.2. Sentences count in lines of at least three words that end one.
    """

    max_curly_brackets: float = 0
    min_num_sentences: float = 5

    def ranges(self) -> Sequence[Range]:
        """List the allowed ranges."""
        return (
            at_most("num_curly_brackets", self.max_curly_brackets),
            at_least("num_sentences", self.min_num_sentences),
        )


@dataclass(frozen=True)
class FineWebQuality:
    """Hold the FineWeb rules.

    Penedo et al., arXiv 2406.17557, section 3.6; new_line_ratio is from the published code.

    line_punct_thr: minimum fraction of lines that end with terminal punctuation. short_line_thr: maximum fraction of short lines.
    """

    line_punct_thr: float = 0.12
    dup_line_char_frac: float = 0.10
    short_line_thr: float = 0.67
    new_line_ratio: float = 0.3

    def ranges(self) -> Sequence[Range]:
        """List the allowed ranges."""
        return (
            at_least("line_punct_ratio", self.line_punct_thr),
            at_most("dup_line_char_frac", self.dup_line_char_frac),
            at_most("short_line_ratio", self.short_line_thr),
            at_most("new_line_ratio", self.new_line_ratio),
        )
