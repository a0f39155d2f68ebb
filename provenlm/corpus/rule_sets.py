"""The statistics of a text in; out, the first rule of a published set that would drop it.

The thresholds are those of the papers, which are made for prose on the web. A word is what lies between whitespace, as in Gopher's
paper; who counts punctuation marks as words gets other numbers. Rules that need a language model, a list of bad words or other
pages, and C4's removal of single lines, are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from provenlm.corpus.statistics import Statistics

LEAST = (
    "letter_words",
    "stop_words",
    "ended_lines",
    "sentences",
)  # a limit to one of these is its least good value, to others the most


@dataclass(frozen=True)
class Limits:
    """Base of the sets: each field is a statistic; a pair is its least and its most good value."""

    def reason(self, found: Statistics) -> str | None:
        """The statistic that lies outside its limit, the first in the order of the fields."""
        for name, limit in self.limits().items():
            value = getattr(found, name)
            least, most = limit if isinstance(limit, tuple) else (limit, value) if name in LEAST else (value, limit)
            if not least <= value <= most:
                return name
        return None

    def limits(self) -> Mapping[str, float | tuple[float, ...]]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if isinstance(limit, tuple) and (len(limit) != 2 or limit[0] > limit[1]):
                raise ValueError(f"{name}: [least, most], got {list(limit)}")


@dataclass(frozen=True)
class Gopher(Limits):
    """Quality: Rae et al., arXiv 2112.11446, appendix A.1."""

    words: tuple[float, ...] = (50, 100_000)
    word_length: tuple[float, ...] = (3, 10)
    symbol_words: float = 0.1
    bullet_lines: float = 0.9
    ellipsis_lines: float = 0.3
    letter_words: float = 0.8
    stop_words: float = 2


@dataclass(frozen=True)
class GopherRepetition(Limits):
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


@dataclass(frozen=True)
class C4(Limits):
    """Raffel et al., arXiv 1910.10683, section 2.2: no curly bracket, and five sentences in lines that end one and have three words."""

    braces: float = 0
    sentences: float = 5


@dataclass(frozen=True)
class FineWeb(Limits):
    """Penedo et al., arXiv 2406.17557, section 3.6; the limit to line breaks is that of its published code."""

    ended_lines: float = 0.12
    repeated_lines: float = 0.10
    short_lines: float = 0.67
    line_breaks: float = 0.3
