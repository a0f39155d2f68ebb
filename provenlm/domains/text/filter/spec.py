"""Records of text in; out, what is private in one, the reason to drop one, and the named parts of its score.

Each statistic has one band in params.yaml. At its outer limits and beyond, the record is dropped with a reason of its own; between
an outer and an inner limit its part of the score rises from 0 to 1. The customary limits (provenlm.domains.text.filter.quality_rules) are made for
prose on the web and throw most reference documentation and nearly all code away. So there are profiles: prose, reference and code each
have bands of their own, and the published rules drop only records of the profiles that are named; for all others they are counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Literal

import numpy as np

from provenlm.core.interfaces import Filtering, Verdict
from provenlm.core.records import Record
from provenlm.domains.text.filter import language_id as languages
from provenlm.domains.text.filter import pii as private
from provenlm.domains.text.filter.c4_lines import Lines, cleaning
from provenlm.domains.text.filter.language_id import Languages
from provenlm.domains.text.filter.quality_rules import C4, FineWeb, Gopher, GopherRepetition, RuleSet, reasons
from provenlm.domains.text.filter.text_stats import Statistics, measure
from provenlm.filtering.scoring import trapezoid

Profile = Literal["prose", "reference", "code"]
CODE = ("text/x-", "application/x-", "application/javascript", "application/json")  # how media types of code begin


@dataclass(frozen=True)
class Bands:
    """The bands of the statistics that `provenlm.domains.text.filter.text_stats` defines.

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


@dataclass(frozen=True, kw_only=True)
class LineRules(Lines):
    """`of`: the profiles whose records lose lines; a record is then judged, and kept, without them."""

    of: tuple[Profile, ...]


@dataclass(frozen=True)
class Settings(Bands):
    """`least`: the least score. The sections that follow may be null: one profile, no published rules, nothing private looked for,
    no languages told apart, no lines taken out."""

    least: float
    profiles: Profiles | None = None
    rule_sets: RuleSets | None = None
    private: Private | None = None
    languages: Languages | None = None
    lines: LineRules | None = None

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


def profiles_of(records: Sequence[Record], found: Statistics, profiles: Profiles) -> list[Profile]:
    code = (found.punctuation >= profiles.code_from).tolist()
    prose = (found.ended_lines >= profiles.prose_from).tolist()
    return [
        "code" if dense or record.media_type.startswith(CODE) else "prose" if ended else "reference"
        for record, dense, ended in zip(records, code, prose, strict=True)
    ]


def by_profile(settings: Settings) -> Mapping[Profile, Sequence[Band]]:
    """The bands of each profile."""
    if settings.profiles is None:
        return {"reference": bands(settings)}
    return {"reference": bands(settings), "code": bands(settings.profiles.code), "prose": bands(settings.profiles.prose)}


@dataclass(slots=True)
class Case:
    """A record under judgement: its body, masked where that was asked for, what was found out about it, and why it goes, if it does."""

    record: Record
    body: bytes
    facts: dict[str, str] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    readable: bool = True  # it is UTF-8

    @property
    def profile(self) -> str:
        return self.facts.get("profile", "reference")


def judge(settings: Settings) -> Callable[[Sequence[Record]], Sequence[Verdict]]:
    """Find what is private, tell languages and profiles, take lines out, ask the published rules and the bands; the first reason counts."""
    asked = by_profile(settings)
    clean = cleaning(settings.lines) if settings.lines else None

    def judged(records: Sequence[Record]) -> Sequence[Verdict]:
        cases = [looked_into(record, settings) for record in records]
        found = measure([case.body for case in cases])
        if settings.profiles is not None:
            for case, profile in zip(cases, profiles_of(records, found, settings.profiles), strict=True):
                if case.readable:
                    case.facts["profile"] = profile
        if settings.lines and clean:
            for case in cases:
                if case.readable and case.profile in settings.lines.of:
                    case.body, removed, why = clean(case.body)
                    case.found.update(removed)
                    case.reason = case.reason or why
            found = measure([case.body for case in cases])
        ask_rule_sets(cases, found, settings.rule_sets)
        parts: list[Mapping[str, float]] = [{}] * len(cases)
        for profile, those in asked.items():
            places = [place for place, case in enumerate(cases) if case.profile == profile]
            for place, named, why in zip(places, *banded(those, found, places), strict=True):
                parts[place] = named
                cases[place].reason = cases[place].reason or why
        return [Verdict(told(case), case.reason, named, case.found) for case, named in zip(cases, parts, strict=True)]

    return judged


def looked_into(record: Record, settings: Settings) -> Case:
    """What is private in a record is found and masked, and its language told; it cannot be read if it is no UTF-8."""
    case = Case(record, record.body)
    if not readable(record.body):
        case.reason, case.readable = "not_utf8", False
        return case
    if settings.private is not None:
        kinds, finds = settings.private.actions(), private.finds(record.body)
        case.found.update(private.counted(finds))
        case.reason = next((f"private_{one.kind}" for one in finds if kinds[one.kind] == "drop"), None)
        if any(kinds[one.kind] == "mask" for one in finds):
            case.body = private.masked(record.body, finds, kinds)
    if settings.languages is not None:
        language, chance = languages.told(case.body)
        case.facts["language"] = language if chance >= settings.languages.least else "unknown"
        case.reason = case.reason or settings.languages.reason(language, chance)
    return case


def readable(body: bytes) -> bool:
    """Whether it is UTF-8."""
    try:
        return body.isascii() or bool(body.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def ask_rule_sets(cases: Sequence[Case], found: Statistics, asked: RuleSets | None) -> None:
    """Count what the published rules would drop, and drop it where they are to."""
    for name, rules in asked.sets().items() if asked else ():
        for case, why in zip(cases, reasons(rules, found), strict=True):
            if why and case.readable:
                case.found[f"rules.{name}"] = 1
                if asked and case.profile in asked.of:
                    case.reason = case.reason or f"{name}_{why}"


def banded(those: Sequence[Band], found: Statistics, places: Sequence[int]) -> tuple[list[Mapping[str, float]], list[str | None]]:
    """Of the texts in `places`: for each statistic, how well they lie in its band; and the reason of the first band that drops them."""
    columns, first = [], np.zeros(len(places), np.int64)
    named: list[str | None] = [None]
    for band in those:
        values = getattr(found, band.statistic)[places]
        columns.append(trapezoid(values, *band.limits()).tolist())
        for why, outside in ((band.low, values <= band.given[0]), (band.high, values >= band.given[-1])):
            if why:
                first[outside & (first == 0)] = len(named)
                named.append(why)
    names = [band.statistic for band in those]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], [named[why] for why in first.tolist()]


def told(case: Case) -> Record:
    """The record as it was looked into."""
    record = case.record if case.body == case.record.body else case.record.with_body(case.body)
    return record.with_facts(**case.facts) if case.facts else record


def least(settings: Settings) -> float:
    """The score below which a record is dropped."""
    return settings.least


SPEC = Filtering(Settings, judge, least)
