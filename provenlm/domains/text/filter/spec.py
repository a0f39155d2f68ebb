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

from provenlm.core.interfaces import FilterResult, FilterSpec
from provenlm.core.records import Record
from provenlm.domains.text.filter import language_id as languages
from provenlm.domains.text.filter import pii as private
from provenlm.domains.text.filter.c4_lines import C4LineConfig, make_line_cleaner
from provenlm.domains.text.filter.language_id import LanguageFilterConfig
from provenlm.domains.text.filter.quality_rules import (
    C4Quality,
    FineWebQuality,
    GopherQuality,
    GopherRepetitionRules,
    QualityRules,
    first_violations,
)
from provenlm.domains.text.filter.text_stats import TextStats, compute_text_stats
from provenlm.filtering.scoring import trapezoid

FilterProfile = Literal["prose", "reference", "code"]
CODE_MEDIA_TYPES = ("text/x-", "application/x-", "application/javascript", "application/json")  # how media types of code begin


@dataclass(frozen=True)
class FilterThresholds:
    """The bands of the statistics that `provenlm.domains.text.filter.text_stats` defines.

    `words`, `word_length`: [dropped up to, good from, good to, dropped from]; `letter_words`, `stop_words`:
    [dropped up to, good from]; all others: [good to, dropped from].
    """

    doc_words: tuple[float, ...]
    avg_word_length: tuple[float, ...]
    alpha_words_ratio: tuple[float, ...]
    stop_words: tuple[float, ...]
    symbol_word_ratio: tuple[float, ...]
    digit_ratio: tuple[float, ...]
    control_char_ratio: tuple[float, ...]
    long_word_char_ratio: tuple[float, ...]
    short_line_ratio: tuple[float, ...]
    dup_line_char_frac: tuple[float, ...]
    top_2_gram_frac: tuple[float, ...]
    dup_10_gram_frac: tuple[float, ...]

    def __post_init__(self) -> None:
        for threshold in stat_thresholds(self):
            size = 4 if threshold.low_reason and threshold.high_reason else 2
            if len(threshold.edges) != size or any(low >= high for low, high in pairwise(threshold.edges)):
                raise ValueError(f"{threshold.statistic}: {size} rising limits, got {list(threshold.edges)}")


@dataclass(frozen=True)
class ProfileConfig:
    """A record is code if its media type says so or `code_from` of its characters are punctuation; prose if `prose_from` of its lines
    end a sentence; else reference, to which the bands outside this section belong."""

    min_punctuation_ratio: float
    min_sentence_line_ratio: float
    code: FilterThresholds
    prose: FilterThresholds


@dataclass(frozen=True)
class QualityRulesConfig:
    """Published rules; a set that is null is not asked. They drop records of the profiles in `of`, and are counted for all others."""

    apply_to: tuple[FilterProfile, ...]
    gopher: GopherQuality | None
    gopher_repetition: GopherRepetitionRules | None
    c4: C4Quality | None
    fineweb: FineWebQuality | None

    def enabled(self) -> Mapping[str, QualityRules]:
        rules_by_name = {"gopher": self.gopher, "gopher_repetition": self.gopher_repetition, "c4": self.c4, "fineweb": self.fineweb}
        return {name: rules for name, rules in rules_by_name.items() if rules is not None}


@dataclass(frozen=True)
class PiiPolicy:
    """What to do with personal data and secrets: keep and count, mask and count, or drop the record."""

    email: Literal["keep", "mask", "drop"]
    ip: Literal["keep", "mask", "drop"]
    phone: Literal["keep", "mask", "drop"]
    secret: Literal["keep", "mask", "drop"]

    def actions(self) -> Mapping[private.PiiKind, str]:
        return {"email": self.email, "ip": self.ip, "phone": self.phone, "secret": self.secret}


@dataclass(frozen=True, kw_only=True)
class LineFilterConfig(C4LineConfig):
    """`of`: the profiles whose records lose lines; a record is then judged, and kept, without them."""

    apply_to: tuple[FilterProfile, ...]


@dataclass(frozen=True)
class TextFilterConfig(FilterThresholds):
    """`least`: the least score. The sections that follow may be null: one profile, no published rules, nothing private looked for,
    no languages told apart, no lines taken out."""

    min_score: float
    profiles: ProfileConfig | None = None
    quality_rules: QualityRulesConfig | None = None
    pii: PiiPolicy | None = None
    language_filter: LanguageFilterConfig | None = None
    line_filter: LineFilterConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"least: a score from 0 to 1, got {self.min_score}")


@dataclass(frozen=True, slots=True)
class StatThreshold:
    """Where a statistic should lie: its limits as given, and the reason to drop a record below and above, if there is one."""

    statistic: str
    edges: tuple[float, ...]
    low_reason: str | None = None
    high_reason: str | None = None

    def corners(self) -> tuple[float, float, float, float]:
        """Dropped up to, good from, good to, dropped from; infinite on a side that the band does not have."""
        drop_below, good_from = self.edges[:2] if self.low_reason else (-inf, -inf)
        good_to, drop_above = self.edges[-2:] if self.high_reason else (inf, inf)
        return drop_below, good_from, good_to, drop_above


def stat_thresholds(thresholds: FilterThresholds) -> Sequence[StatThreshold]:
    """The bands in the order in which they are asked."""
    return (
        StatThreshold("words", thresholds.doc_words, low_reason="too_short", high_reason="too_long"),
        StatThreshold("word_length", thresholds.avg_word_length, low_reason="words_too_short", high_reason="words_too_long"),
        StatThreshold("letter_words", thresholds.alpha_words_ratio, low_reason="few_words_with_letters"),
        StatThreshold("stop_words", thresholds.stop_words, low_reason="few_stop_words"),
        StatThreshold("symbol_words", thresholds.symbol_word_ratio, high_reason="many_symbols"),
        StatThreshold("digits", thresholds.digit_ratio, high_reason="many_digits"),
        StatThreshold("control", thresholds.control_char_ratio, high_reason="control_characters"),
        StatThreshold("long_words", thresholds.long_word_char_ratio, high_reason="unbroken_strings"),
        StatThreshold("short_lines", thresholds.short_line_ratio, high_reason="only_short_lines"),
        StatThreshold("repeated_lines", thresholds.dup_line_char_frac, high_reason="repeated_lines"),
        StatThreshold("top_bigram", thresholds.top_2_gram_frac, high_reason="one_pair_of_words"),
        StatThreshold("repeated_ngrams", thresholds.dup_10_gram_frac, high_reason="repeated_passages"),
    )


def classify_profiles(records: Sequence[Record], stats: TextStats, profiles: ProfileConfig) -> list[FilterProfile]:
    is_code = (stats.punctuation_ratio >= profiles.min_punctuation_ratio).tolist()
    is_prose = (stats.line_punct_ratio >= profiles.min_sentence_line_ratio).tolist()
    return [
        "code"
        if dense_punctuation or record.media_type.startswith(CODE_MEDIA_TYPES)
        else "prose"
        if sentence_lines
        else "reference"
        for record, dense_punctuation, sentence_lines in zip(records, is_code, is_prose, strict=True)
    ]


def thresholds_by_profile(config: TextFilterConfig) -> Mapping[FilterProfile, Sequence[StatThreshold]]:
    """The bands of each profile."""
    if config.profiles is None:
        return {"reference": stat_thresholds(config)}
    return {
        "reference": stat_thresholds(config),
        "code": stat_thresholds(config.profiles.code),
        "prose": stat_thresholds(config.profiles.prose),
    }


@dataclass(slots=True)
class FilterCase:
    """A record under judgement: its body, masked where that was asked for, what was found out about it, and why it goes, if it does."""

    record: Record
    content: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    drop_reason: str | None = None
    is_utf8: bool = True  # it is UTF-8

    @property
    def profile(self) -> str:
        return self.metadata.get("profile", "reference")


def make_batch_filter(config: TextFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    """Find what is private, tell languages and profiles, take lines out, ask the published rules and the bands; the first reason counts."""
    thresholds = thresholds_by_profile(config)
    clean = make_line_cleaner(config.line_filter) if config.line_filter else None

    def filter_batch(records: Sequence[Record]) -> Sequence[FilterResult]:
        cases = [inspect_record(record, config) for record in records]
        stats = compute_text_stats([case.content for case in cases])
        if config.profiles is not None:
            for case, profile in zip(cases, classify_profiles(records, stats, config.profiles), strict=True):
                if case.is_utf8:
                    case.metadata["profile"] = profile
        if config.line_filter and clean:
            for case in cases:
                if case.is_utf8 and case.profile in config.line_filter.apply_to:
                    case.content, removed_lines, reason = clean(case.content)
                    case.counts.update(removed_lines)
                    case.drop_reason = case.drop_reason or reason
            stats = compute_text_stats([case.content for case in cases])
        apply_quality_rules(cases, stats, config.quality_rules)
        sub_scores: list[Mapping[str, float]] = [{}] * len(cases)
        for profile, profile_thresholds in thresholds.items():
            indices = [index for index, case in enumerate(cases) if case.profile == profile]
            for index, scores, reason in zip(indices, *apply_thresholds(profile_thresholds, stats, indices), strict=True):
                sub_scores[index] = scores
                cases[index].drop_reason = cases[index].drop_reason or reason
        return [
            FilterResult(updated_record(case), case.drop_reason, scores, case.counts)
            for case, scores in zip(cases, sub_scores, strict=True)
        ]

    return filter_batch


def inspect_record(record: Record, config: TextFilterConfig) -> FilterCase:
    """What is private in a record is found and masked, and its language told; it cannot be read if it is no UTF-8."""
    case = FilterCase(record, record.content)
    if not is_utf8(record.content):
        case.drop_reason, case.is_utf8 = "not_utf8", False
        return case
    if config.pii is not None:
        actions, matches = config.pii.actions(), private.find_pii(record.content)
        case.counts.update(private.count_pii(matches))
        case.drop_reason = next((f"private_{match.kind}" for match in matches if actions[match.kind] == "drop"), None)
        if any(actions[match.kind] == "mask" for match in matches):
            case.content = private.mask_pii(record.content, matches, actions)
    if config.language_filter is not None:
        language, probability = languages.identify_language(case.content)
        case.metadata["language"] = language if probability >= config.language_filter.language_threshold else "unknown"
        case.drop_reason = case.drop_reason or config.language_filter.drop_reason(language, probability)
    return case


def is_utf8(content: bytes) -> bool:
    """Whether it is UTF-8."""
    try:
        return content.isascii() or bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def apply_quality_rules(cases: Sequence[FilterCase], stats: TextStats, config: QualityRulesConfig | None) -> None:
    """Count what the published rules would drop, and drop it where they are to."""
    for name, rules in config.enabled().items() if config else ():
        for case, violation in zip(cases, first_violations(rules, stats), strict=True):
            if violation and case.is_utf8:
                case.counts[f"rules.{name}"] = 1
                if config and case.profile in config.apply_to:
                    case.drop_reason = case.drop_reason or f"{name}_{violation}"


def apply_thresholds(
    thresholds: Sequence[StatThreshold], stats: TextStats, indices: Sequence[int]
) -> tuple[list[Mapping[str, float]], list[str | None]]:
    """Of the texts in `places`: for each statistic, how well they lie in its band; and the reason of the first band that drops them."""
    columns, first_reason = [], np.zeros(len(indices), np.int64)
    reasons: list[str | None] = [None]
    for threshold in thresholds:
        values = getattr(stats, threshold.statistic)[indices]
        columns.append(trapezoid(values, *threshold.corners()).tolist())
        for reason, is_outside in (
            (threshold.low_reason, values <= threshold.edges[0]),
            (threshold.high_reason, values >= threshold.edges[-1]),
        ):
            if reason:
                first_reason[is_outside & (first_reason == 0)] = len(reasons)
                reasons.append(reason)
    names = [threshold.statistic for threshold in thresholds]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], [
        reasons[reason] for reason in first_reason.tolist()
    ]


def updated_record(case: FilterCase) -> Record:
    """The record as it was looked into."""
    record = case.record if case.content == case.record.content else case.record.with_content(case.content)
    return record.with_metadata(**case.metadata) if case.metadata else record


def min_score(config: TextFilterConfig) -> float:
    """The score below which a record is dropped."""
    return config.min_score


SPEC = FilterSpec(TextFilterConfig, make_batch_filter, min_score)
