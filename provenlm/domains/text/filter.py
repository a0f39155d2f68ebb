"""Records of text in; out, what is private in one, the reason to drop one, and the named parts of its score.

Each statistic has one band in params.yaml. At its outer limits and beyond, the record is dropped with a reason of its own; between
an outer and an inner limit its part of the score rises from 0 to 1. The customary limits (provenlm.corpus.rule_sets) are made for
prose on the web and throw most reference documentation and nearly all code away. So there are profiles: prose, reference and code each
have bands of their own, and the published rules drop only records of the profiles that are named; for all others they are counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Literal

from provenlm.core.plugin import Filtering, Prepared
from provenlm.core.record import Record, Rule
from provenlm.corpus import languages, private
from provenlm.corpus.filtering import trapezoid
from provenlm.corpus.languages import Languages
from provenlm.corpus.rule_sets import C4, FineWeb, Gopher, GopherRepetition, RuleSet
from provenlm.corpus.statistics import measure

Profile = Literal["prose", "reference", "code"]
CODE = ("text/x-", "application/x-", "application/javascript", "application/json")  # how media types of code begin


@dataclass(frozen=True)
class Bands:
    """The bands of the statistics that `provenlm.corpus.statistics` defines.

    `words`, `word_length`: [dropped up to, good from, good to, dropped from]; `letter_words`, `stop_words`:
    [dropped up to, good from]; all others: [good to, dropped from].
    """

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
        for band in bands(self):
            size = 4 if band.low and band.high else 2
            if len(band.given) != size or any(low >= high for low, high in pairwise(band.given)):
                raise ValueError(f"{band.statistic}: {size} rising limits, got {list(band.given)}")


@dataclass(frozen=True)
class Profiles:
    """A record is code if its media type says so or `code_from` of its characters are punctuation; prose if `prose_from` of its lines
    end a sentence; else reference, to which the bands outside this section belong."""

    code_from: float
    prose_from: float
    code: Bands
    prose: Bands


@dataclass(frozen=True)
class RuleSets:
    """Published rules; a set that is null is not asked. They drop records of the profiles in `of`, and are counted for all others."""

    of: tuple[Profile, ...]
    gopher: Gopher | None
    gopher_repetition: GopherRepetition | None
    c4: C4 | None
    fineweb: FineWeb | None

    def sets(self) -> Mapping[str, RuleSet]:
        named = {"gopher": self.gopher, "gopher_repetition": self.gopher_repetition, "c4": self.c4, "fineweb": self.fineweb}
        return {name: limits for name, limits in named.items() if limits is not None}


@dataclass(frozen=True)
class Private:
    """What to do with personal data and secrets: keep and count, mask and count, or drop the record."""

    email: Literal["keep", "mask", "drop"]
    ip: Literal["keep", "mask", "drop"]
    phone: Literal["keep", "mask", "drop"]
    secret: Literal["keep", "mask", "drop"]

    def actions(self) -> Mapping[private.Kind, str]:
        return {"email": self.email, "ip": self.ip, "phone": self.phone, "secret": self.secret}


@dataclass(frozen=True)
class Settings(Bands):
    """`least`: the least score. The sections that follow may be null: one profile, no published rules, nothing private looked for,
    no languages told apart."""

    least: float
    profiles: Profiles | None = None
    rule_sets: RuleSets | None = None
    private: Private | None = None
    languages: Languages | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.least <= 1:
            raise ValueError(f"least: a score from 0 to 1, got {self.least}")


@dataclass(frozen=True, slots=True)
class Band:
    """Where a statistic should lie: its limits as given, and the reason to drop a record below and above, if there is one."""

    statistic: str
    given: tuple[float, ...]
    low: str | None = None
    high: str | None = None

    def limits(self) -> tuple[float, float, float, float]:
        """Dropped up to, good from, good to, dropped from; infinite on a side that the band does not have."""
        lowest, good_from = self.given[:2] if self.low else (-inf, -inf)
        good_to, highest = self.given[-2:] if self.high else (inf, inf)
        return lowest, good_from, good_to, highest

    def reason(self, value: float) -> str | None:
        """The reason to drop a record whose statistic is `value`, or None if that lies inside the band."""
        if self.low and value <= self.given[0]:
            return self.low
        return self.high if self.high and value >= self.given[-1] else None


def bands(given: Bands) -> Sequence[Band]:
    """The bands in the order in which they are asked."""
    return (
        Band("words", given.words, low="too_short", high="too_long"),
        Band("word_length", given.word_length, low="words_too_short", high="words_too_long"),
        Band("letter_words", given.letter_words, low="few_words_with_letters"),
        Band("stop_words", given.stop_words, low="few_stop_words"),
        Band("symbol_words", given.symbol_words, high="many_symbols"),
        Band("digits", given.digits, high="many_digits"),
        Band("control", given.control, high="control_characters"),
        Band("long_words", given.long_words, high="unbroken_strings"),
        Band("short_lines", given.short_lines, high="only_short_lines"),
        Band("repeated_lines", given.repeated_lines, high="repeated_lines"),
        Band("top_bigram", given.top_bigram, high="one_pair_of_words"),
        Band("repeated_ngrams", given.repeated_ngrams, high="repeated_passages"),
    )


def profile_of(record: Record, profiles: Profiles) -> Profile:
    found = measure(record.body)
    if record.media_type.startswith(CODE) or found.punctuation >= profiles.code_from:
        return "code"
    return "prose" if found.ended_lines >= profiles.prose_from else "reference"


def prepare(settings: Settings) -> Callable[[Record], Prepared]:
    """Find what is private, tell the language and the profile, and ask the published rules."""
    kinds = {} if settings.private is None else settings.private.actions()
    sets = settings.rule_sets.sets() if settings.rule_sets else {}
    of = settings.rule_sets.of if settings.rule_sets else ()

    def prepared(record: Record) -> Prepared:
        reason, found = undecodable(record), dict[str, int]()
        if reason:
            return Prepared(record, found, reason)
        if settings.private is not None:
            finds = private.finds(record.body)
            found |= private.counted(finds)
            reason = next((f"private_{one.kind}" for one in finds if kinds[one.kind] == "drop"), None)
            if any(kinds[one.kind] == "mask" for one in finds):
                record = record.with_body(private.masked(record.body, finds, kinds))
        if settings.languages is not None:
            language, chance = languages.told(record.text)
            record = record.with_facts(language=language if chance >= settings.languages.least else "unknown")
            reason = reason or settings.languages.reason(language, chance)
        if settings.profiles is not None:
            record = record.with_facts(profile=profile_of(record, settings.profiles))
        for name, limits in sets.items():
            if why := limits.reason(measure(record.body)):
                found[f"rules.{name}"] = 1
                reason = reason or (f"{name}_{why}" if record.facts.get("profile", "reference") in of else None)
        return Prepared(record, found, reason)

    return prepared


def by_profile(settings: Settings) -> Mapping[Profile, Sequence[Band]]:
    """The bands of each profile."""
    if settings.profiles is None:
        return {"reference": bands(settings)}
    return {"reference": bands(settings), "code": bands(settings.profiles.code), "prose": bands(settings.profiles.prose)}


def rules(settings: Settings) -> Sequence[Rule]:
    """The bands as one rule: the reason of the first that drops the record."""
    asked = by_profile(settings)

    def rule(record: Record) -> str | None:
        found, those = measure(record.body), asked[record.facts.get("profile", "reference")]
        return next((why for band in those if (why := band.reason(getattr(found, band.statistic)))), None)

    return [rule]


def undecodable(record: Record) -> str | None:
    """The reason to drop a body that is no UTF-8."""
    try:
        record.body.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def parts(settings: Settings) -> Callable[[Record], Mapping[str, float]]:
    """For each statistic, how well a record lies in its band."""
    limits = {name: [(band.statistic, band.limits()) for band in those] for name, those in by_profile(settings).items()}

    def scored(record: Record) -> Mapping[str, float]:
        found = measure(record.body)
        return {name: trapezoid(getattr(found, name), *edges) for name, edges in limits[record.facts.get("profile", "reference")]}

    return scored


def least(settings: Settings) -> float:
    """The score below which a record is dropped."""
    return settings.least


FACE = Filtering(Settings, rules, parts, least, prepare)
