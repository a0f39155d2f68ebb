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

from provenlm.domains.text.filter.text_stats import Statistics


class Limit(NamedTuple):
    """The least and the most good value of a statistic."""

    statistic: str
    least: float
    most: float


def least(statistic: str, value: float) -> Limit:
    return Limit(statistic, value, inf)


def most(statistic: str, value: float) -> Limit:
    return Limit(statistic, -inf, value)


class RuleSet(Protocol):
    """The fields of a set are named after statistics."""

    def limits(self) -> Sequence[Limit]: ...


def reasons(rules: RuleSet, found: Statistics) -> list[str | None]:
    """For each text, the first statistic that lies outside its limits."""
    first: list[str | None] = [None] * len(found.words)
    for name, low, high in reversed(rules.limits()):
        values = getattr(found, name)
        for text in np.flatnonzero((values < low) | (values > high)).tolist():
            first[text] = name
    return first


@dataclass(frozen=True)
class Gopher:
    """Quality: Rae et al., arXiv 2112.11446, appendix A.1."""

    words: tuple[float, ...] = (50, 100_000)
    word_length: tuple[float, ...] = (3, 10)
    symbol_words: float = 0.1
    bullet_lines: float = 0.9
    ellipsis_lines: float = 0.3
    letter_words: float = 0.8
    stop_words: float = 2

    def limits(self) -> Sequence[Limit]:
        return (
            Limit("words", *self.words),
            Limit("word_length", *self.word_length),
            most("symbol_words", self.symbol_words),
            most("bullet_lines", self.bullet_lines),
            most("ellipsis_lines", self.ellipsis_lines),
            least("letter_words", self.letter_words),
            least("stop_words", self.stop_words),
        )

    def __post_init__(self) -> None:
        for name, pair in (("words", self.words), ("word_length", self.word_length)):
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name}: [least, most], got {list(pair)}")


@dataclass(frozen=True)
class GopherRepetition:
    """Repetition: Rae et al., arXiv 2112.11446, table A1."""

    lines_again: float = 0.30
    paragraphs_again: float = 0.30
    repeated_lines: float = 0.20
    repeated_paragraphs: float = 0.20
    top_bigram: float = 0.20
    top_trigram: float = 0.18
    top_4gram: float = 0.16
    repeated_5grams: float = 0.15
    repeated_6grams: float = 0.14
    repeated_7grams: float = 0.13
    repeated_8grams: float = 0.12
    repeated_9grams: float = 0.11
    repeated_ngrams: float = 0.10

    def limits(self) -> Sequence[Limit]:
        return (
            most("lines_again", self.lines_again),
            most("paragraphs_again", self.paragraphs_again),
            most("repeated_lines", self.repeated_lines),
            most("repeated_paragraphs", self.repeated_paragraphs),
            most("top_bigram", self.top_bigram),
            most("top_trigram", self.top_trigram),
            most("top_4gram", self.top_4gram),
            most("repeated_5grams", self.repeated_5grams),
            most("repeated_6grams", self.repeated_6grams),
            most("repeated_7grams", self.repeated_7grams),
            most("repeated_8grams", self.repeated_8grams),
            most("repeated_9grams", self.repeated_9grams),
            most("repeated_ngrams", self.repeated_ngrams),
        )


@dataclass(frozen=True)
class C4:
    """Raffel et al., arXiv 1910.10683, section 2.2: no curly bracket, and five sentences in lines that end one and have three words."""

    braces: float = 0
    sentences: float = 5

    def limits(self) -> Sequence[Limit]:
        return (
            most("braces", self.braces),
            least("sentences", self.sentences),
        )


@dataclass(frozen=True)
class FineWeb:
    """Penedo et al., arXiv 2406.17557, section 3.6; the limit to line breaks is that of its published code."""

    ended_lines: float = 0.12
    repeated_lines: float = 0.10
    short_lines: float = 0.67
    line_breaks: float = 0.3

    def limits(self) -> Sequence[Limit]:
        return (
            least("ended_lines", self.ended_lines),
            most("repeated_lines", self.repeated_lines),
            most("short_lines", self.short_lines),
            most("line_breaks", self.line_breaks),
        )
