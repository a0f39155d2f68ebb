"""Records of text in; out, the reason to drop one, and the named parts of its score.

Each statistic has one band in params.yaml. At its outer limits and beyond, the record is dropped with a reason of its own; between
an outer and an inner limit its part of the score rises from 0 to 1. The customary limits (Gopher, arXiv 2112.11446, table A1;
FineWeb, arXiv 2406.17557, section 3.4) are made for prose on the web and throw most reference documentation and nearly all code
away, so bands for such texts have to be wider than those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from provenlm.core.plugin import Filtering
from provenlm.core.record import Record, Rule
from provenlm.corpus.filtering import trapezoid
from provenlm.corpus.statistics import measure


@dataclass(frozen=True)
class Settings:
    """The bands of the statistics that `provenlm.corpus.statistics` defines, and the least score.

    `words`, `word_length`: [dropped up to, good from, good to, dropped from]; `letter_words`, `stop_words`:
    [dropped up to, good from]; all others: [good to, dropped from].
    """

    least: float
    words: tuple[float, ...]
    word_length: tuple[float, ...]
    letter_words: tuple[float, ...]
    stop_words: tuple[float, ...]
    symbol_words: tuple[float, ...]
    digits: tuple[float, ...]
    control: tuple[float, ...]
    long_words: tuple[float, ...]
    short_lines: tuple[float, ...]
    repeated_lines: tuple[float, ...]
    top_bigram: tuple[float, ...]
    repeated_ngrams: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"least: a score from 0 to 1, got {self.least}")
        for band in bands(self):
            size = 4 if band.low and band.high else 2
            if len(band.given) != size or any(low >= high for low, high in pairwise(band.given)):
                raise ValueError(f"{band.statistic}: {size} rising limits, got {list(band.given)}")


@dataclass(frozen=True, slots=True)
class Band:
    """Where a statistic should lie: its limits as given, and the reason to drop a record below and above, if there is one."""

    statistic: str
    given: tuple[float, ...]
    low: str | None = None
    high: str | None = None

    @property
    def limits(self) -> tuple[float, float, float, float]:
        """Dropped up to, good from, good to, dropped from; infinite on a side that the band does not have."""
        lowest, good_from = self.given[:2] if self.low else (-inf, -inf)
        good_to, highest = self.given[-2:] if self.high else (inf, inf)
        return lowest, good_from, good_to, highest

    def rule(self, record: Record) -> str | None:
        """The reason to drop `record`, or None if the statistic lies inside the band."""
        value = getattr(measure(record.body), self.statistic)
        lowest, _, _, highest = self.limits
        return self.low if value <= lowest else self.high if value >= highest else None

    def part(self, record: Record) -> float:
        """How well the statistic lies in the band, from 0 to 1."""
        return trapezoid(getattr(measure(record.body), self.statistic), *self.limits)


def bands(settings: Settings) -> Sequence[Band]:
    """The bands in the order in which they are asked."""
    return (
        Band("words", settings.words, low="too_short", high="too_long"),
        Band("word_length", settings.word_length, low="words_too_short", high="words_too_long"),
        Band("letter_words", settings.letter_words, low="few_words_with_letters"),
        Band("stop_words", settings.stop_words, low="few_stop_words"),
        Band("symbol_words", settings.symbol_words, high="many_symbols"),
        Band("digits", settings.digits, high="many_digits"),
        Band("control", settings.control, high="control_characters"),
        Band("long_words", settings.long_words, high="unbroken_strings"),
        Band("short_lines", settings.short_lines, high="only_short_lines"),
        Band("repeated_lines", settings.repeated_lines, high="repeated_lines"),
        Band("top_bigram", settings.top_bigram, high="one_pair_of_words"),
        Band("repeated_ngrams", settings.repeated_ngrams, high="repeated_passages"),
    )


def rules(settings: Settings) -> Sequence[Rule]:
    """One rule for undecodable bodies, then one a band."""
    return [undecodable, *(band.rule for band in bands(settings))]


def undecodable(record: Record) -> str | None:
    """The reason to drop a body that is no UTF-8."""
    try:
        record.body.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def parts(settings: Settings) -> Callable[[Record], Mapping[str, float]]:
    """For each statistic, how well a record lies in its band."""
    asked = bands(settings)
    return lambda record: {band.statistic: band.part(record) for band in asked}


def least(settings: Settings) -> float:
    """The score below which a record is dropped."""
    return settings.least


FACE = Filtering(Settings, rules, parts, least)
