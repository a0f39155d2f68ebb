"""Records of text in; out, the reason to drop one, and the named parts of its score.

Each statistic has one band in params.yaml. At its outer limits and beyond, the record is dropped with a reason of its own; between
an outer and an inner limit its part of the score rises from 0 to 1. The customary limits (Gopher, arXiv 2112.11446, table A1;
FineWeb, arXiv 2406.17557, section 3.4) are made for prose on the web and throw most reference documentation and nearly all code
away, so bands for such texts have to be wider than those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf

from provenlm.core.plugin import Filtering
from provenlm.core.record import Record, Rule
from provenlm.corpus.filtering import trapezoid
from provenlm.corpus.statistics import Statistics, measure

Limits = tuple[float, float, float, float]  # dropped up to, good from, good to, dropped from

BOTH = {"words": ("too_short", "too_long"), "word_length": ("words_too_short", "words_too_long")}
AT_LEAST = {"letter_words": "few_words_with_letters", "stop_words": "few_stop_words"}
AT_MOST = {
    "symbol_words": "many_symbols",
    "digits": "many_digits",
    "control": "control_characters",
    "long_words": "unbroken_strings",
    "short_lines": "only_short_lines",
    "repeated_lines": "repeated_lines",
    "top_bigram": "one_pair_of_words",
    "repeated_ngrams": "repeated_passages",
}


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
        for field in fields(self):
            band = getattr(self, field.name)
            size = 4 if field.name in BOTH else 2
            if field.name != "least" and (len(band) != size or any(low >= high for low, high in pairwise(band))):
                raise ValueError(f"{field.name}: {size} rising limits, got {list(band)}")


def limits(settings: Settings) -> dict[str, Limits]:
    """The four limits of every statistic; infinite where its band has no such side."""
    found: dict[str, Limits] = {}
    for field in fields(settings):
        if field.name in BOTH:
            lowest, good_from, good_to, highest = getattr(settings, field.name)
            found[field.name] = (lowest, good_from, good_to, highest)
        elif field.name in AT_LEAST:
            found[field.name] = (*getattr(settings, field.name), inf, inf)
        elif field.name in AT_MOST:
            found[field.name] = (-inf, -inf, *getattr(settings, field.name))
    return found


def rules(settings: Settings) -> Sequence[Rule]:
    """One rule for undecodable bodies, then one a statistic in the order of the settings."""
    return [undecodable, *(_rule(name, band) for name, band in limits(settings).items())]


def undecodable(record: Record) -> str | None:
    try:
        record.body.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def _rule(name: str, band: Limits) -> Rule:
    low, high = BOTH.get(name) or (AT_LEAST.get(name), AT_MOST.get(name))

    def rule(record: Record) -> str | None:
        value = getattr(measure(record.body), name)
        return low if value <= band[0] else high if value >= band[3] else None

    return rule


def parts(settings: Settings) -> Callable[[Record], Mapping[str, float]]:
    """For each statistic, how well a record lies in its band."""
    bands = limits(settings)

    def graded(record: Record) -> Mapping[str, float]:
        statistics: Statistics = measure(record.body)
        return {name: trapezoid(getattr(statistics, name), *band) for name, band in bands.items()}

    return graded


def least(settings: Settings) -> float:
    return settings.least


FACE = Filtering(Settings, rules, parts, least)
