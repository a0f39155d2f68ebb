"""The statistics of texts in; out, for each, the first rule of a published set that would drop it.

The thresholds are those of the papers, which are made for prose on the web. A word is what lies between whitespace, as in Gopher's
paper; who counts punctuation marks as words gets other numbers. Rules that need a language model or other pages are left out; C4's
removal of single lines and its list of bad words are in provenlm.domains.text.filter.c4_lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

import numpy as np

from provenlm.domains.text.filter.text_stats import TextStats


class Range(NamedTuple):
    """The least and the most good value of a statistic."""

    statistic: str
    min_value: float
    max_value: float


def at_least(statistic: str, value: float) -> Range:
    return Range(statistic, value, inf)


def at_most(statistic: str, value: float) -> Range:
    return Range(statistic, -inf, value)


class QualityRules(Protocol):
    """The fields of a set are named after statistics."""

    def ranges(self) -> Sequence[Range]: ...


def first_violations(rules: QualityRules, stats: TextStats) -> list[str | None]:
    """For each text, the first statistic that lies outside its limits."""
    violations: list[str | None] = [None] * len(stats.doc_words)
    for name, low, high in reversed(rules.ranges()):
        values = getattr(stats, name)
        for index in np.flatnonzero((values < low) | (values > high)).tolist():
            violations[index] = name
    return violations


@dataclass(frozen=True)
class GopherQuality:
    """Quality: Rae et al., arXiv 2112.11446, appendix A.1."""

    doc_words: tuple[float, ...] = (50, 100_000)
    avg_word_length: tuple[float, ...] = (3, 10)
    max_symbol_word_ratio: float = 0.1
    max_bullet_lines_ratio: float = 0.9
    max_ellipsis_lines_ratio: float = 0.3
    min_alpha_words_ratio: float = 0.8
    min_stop_words: float = 2

    def ranges(self) -> Sequence[Range]:
        return (
            Range("words", *self.doc_words),
            Range("word_length", *self.avg_word_length),
            at_most("symbol_words", self.max_symbol_word_ratio),
            at_most("bullet_lines", self.max_bullet_lines_ratio),
            at_most("ellipsis_lines", self.max_ellipsis_lines_ratio),
            at_least("letter_words", self.min_alpha_words_ratio),
            at_least("stop_words", self.min_stop_words),
        )

    def __post_init__(self) -> None:
        for name, pair in (("words", self.doc_words), ("word_length", self.avg_word_length)):
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name}: [least, most], got {list(pair)}")


@dataclass(frozen=True)
class GopherRepetitionRules:
    """Repetition: Rae et al., arXiv 2112.11446, table A1."""

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
        return (
            at_most("lines_again", self.dup_line_frac),
            at_most("paragraphs_again", self.dup_para_frac),
            at_most("repeated_lines", self.dup_line_char_frac),
            at_most("repeated_paragraphs", self.dup_para_char_frac),
            at_most("top_bigram", self.top_2_gram_frac),
            at_most("top_trigram", self.top_3_gram_frac),
            at_most("top_4gram", self.top_4_gram_frac),
            at_most("repeated_5grams", self.dup_5_gram_frac),
            at_most("repeated_6grams", self.dup_6_gram_frac),
            at_most("repeated_7grams", self.dup_7_gram_frac),
            at_most("repeated_8grams", self.dup_8_gram_frac),
            at_most("repeated_9grams", self.dup_9_gram_frac),
            at_most("repeated_ngrams", self.dup_10_gram_frac),
        )


@dataclass(frozen=True)
class C4Quality:
    """Raffel et al., arXiv 1910.10683, section 2.2: no curly bracket, and five sentences in lines that end one and have three words."""

    max_curly_brackets: float = 0
    min_num_sentences: float = 5

    def ranges(self) -> Sequence[Range]:
        return (
            at_most("braces", self.max_curly_brackets),
            at_least("sentences", self.min_num_sentences),
        )


@dataclass(frozen=True)
class FineWebQuality:
    """Penedo et al., arXiv 2406.17557, section 3.6; the limit to line breaks is that of its published code."""

    line_punct_thr: float = 0.12
    dup_line_char_frac: float = 0.10
    short_line_thr: float = 0.67
    new_line_ratio: float = 0.3

    def ranges(self) -> Sequence[Range]:
        return (
            at_least("ended_lines", self.line_punct_thr),
            at_most("repeated_lines", self.dup_line_char_frac),
            at_most("short_lines", self.short_line_thr),
            at_most("line_breaks", self.new_line_ratio),
        )
