"""Filter text.

Personal data is masked, the language identified, then quality rules and thresholds on text statistics are applied.

Each statistic has one threshold in params.yaml. A record at or beyond an outer edge is dropped with the reason of that statistic;
between an outer and an inner edge its sub-score is between 0 and 1. The published quality rules (provenlm.domains.text.filter.quality_rules)
are made for prose on the web and would drop most reference documentation and nearly all code. Therefore each record has a profile:
prose, reference and code have thresholds of their own, and the published rules drop records of the profiles in `apply_to` only.
Violations are counted for all records.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from provenlm.core.interfaces import CountLabel, FilterResult, FilterSpec
from provenlm.core.records import Record
from provenlm.domains.text.filter import language_id, languages, pii
from provenlm.domains.text.filter.c4_lines import C4LineConfig, make_line_cleaner
from provenlm.domains.text.filter.datatrove_rules import make_datatrove_rules
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
from provenlm.domains.text.filter.thresholds import CodeThresholds, FilterThresholds, ProseThresholds, apply_thresholds

FilterProfile = Literal["prose", "reference", "code"]
NOT_A_LANGUAGE = ("unknown", "zxx")  # zxx: no linguistic content (ISO 639-2)
CODE_MEDIA_TYPES = ("text/x-", "application/x-", "application/javascript", "application/json")  # prefixes of media types
MARKUP_MEDIA_TYPES = ("text/x-rst", "text/x-asciidoc", "text/x-tex", "text/x-markdown")  # text all the same


@dataclass(frozen=True)
class ProfileConfig:
    """Configure profiles: how to classify records, and their thresholds.

    min_punctuation_ratio: a record is code from this fraction of punctuation characters on, or if its media type is that of code.
    min_sentence_line_ratio: else it is prose from this fraction of lines that end a sentence on.
    All other records are reference; the thresholds outside this section apply to them.
    """

    min_punctuation_ratio: float = 0.22
    min_sentence_line_ratio: float = 0.6
    code: CodeThresholds = field(default_factory=CodeThresholds)
    prose: ProseThresholds = field(default_factory=ProseThresholds)


@dataclass(frozen=True)
class QualityRulesConfig:
    """Configure published sets of quality rules; null switches a set off.

    apply_to: profiles whose records are dropped for a violation; for all other profiles violations are only counted.
    decided_by: with datatrove its own filters decide, with their defaults; the sets here must have their default thresholds then.
    """

    apply_to: tuple[FilterProfile, ...] = ()
    decided_by: Literal["provenlm", "datatrove"] = "provenlm"
    gopher: GopherQuality | None = field(default_factory=GopherQuality)
    gopher_repetition: GopherRepetitionRules | None = field(default_factory=GopherRepetitionRules)
    c4: C4Quality | None = field(default_factory=C4Quality)
    fineweb: FineWebQuality | None = field(default_factory=FineWebQuality)

    def enabled(self) -> Mapping[str, QualityRules]:
        """Return the sets that are not null, by name."""
        rules_by_name = {"gopher": self.gopher, "gopher_repetition": self.gopher_repetition, "c4": self.c4, "fineweb": self.fineweb}
        return {name: rules for name, rules in rules_by_name.items() if rules is not None}


@dataclass(frozen=True)
class PiiPolicy:
    """Configure what to do with personal data and secrets.

    Keep them, mask them, or drop the record. All matches are counted.
    """

    email: Literal["keep", "mask", "drop"] = "keep"
    ip: Literal["keep", "mask", "drop"] = "keep"
    phone: Literal["keep", "mask", "drop"] = "keep"
    secret: Literal["keep", "mask", "drop"] = "keep"

    def actions(self) -> Mapping[pii.PiiKind, str]:
        """Return the action by kind of personal data."""
        return {"email": self.email, "ip": self.ip, "phone": self.phone, "secret": self.secret}


@dataclass(frozen=True, kw_only=True)
class LineFilterConfig(C4LineConfig):
    """Configure the C4 line filter.

    apply_to: profiles whose records lose lines before their statistics are computed.
    """

    apply_to: tuple[FilterProfile, ...] = ("prose",)


@dataclass(frozen=True)
class TextFilterConfig(FilterThresholds):
    """Configure filtering of text.

    A section that is null is switched off.

    min_score: records with a lower quality score are dropped.
    """

    min_score: float = 0.5
    profiles: ProfileConfig | None = field(default_factory=ProfileConfig)
    quality_rules: QualityRulesConfig | None = field(default_factory=QualityRulesConfig)
    pii: PiiPolicy | None = field(default_factory=PiiPolicy)
    language_filter: LanguageFilterConfig | None = field(default_factory=LanguageFilterConfig)
    line_filter: LineFilterConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must be from 0 to 1, got {self.min_score}")


def classify_profiles(records: Sequence[Record], stats: TextStats, profiles: ProfileConfig) -> list[FilterProfile]:
    """Classify each record as code, prose or reference."""
    is_code = (stats.punctuation_ratio >= profiles.min_punctuation_ratio).tolist()
    is_prose = (stats.line_punct_ratio >= profiles.min_sentence_line_ratio).tolist()
    return [
        "code"
        if dense_punctuation or (record.media_type.startswith(CODE_MEDIA_TYPES) and record.media_type not in MARKUP_MEDIA_TYPES)
        else "prose"
        if sentence_lines
        else "reference"
        for record, dense_punctuation, sentence_lines in zip(records, is_code, is_prose, strict=True)
    ]


def thresholds_by_profile(config: TextFilterConfig) -> Mapping[FilterProfile, FilterThresholds]:
    """Return the thresholds of each profile.

    Without profiles all records are reference.
    """
    if config.profiles is None:
        return {"reference": config}
    return {"reference": config, "code": config.profiles.code, "prose": config.profiles.prose}


@dataclass(slots=True)
class FilterCase:
    """Hold a record that is being filtered and what is known about it so far."""

    record: Record
    content: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    drop_reason: str | None = None
    is_utf8: bool = True
    language: str = "unknown"  # the most probable one
    is_certain_language: bool = False  # its probability reaches the threshold

    @property
    def profile(self) -> str:
        """Return the profile; reference if none was classified."""
        return self.metadata.get("profile", "reference")


def make_batch_filter(config: TextFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    """Build the filter of a batch of records.

    Order: personal data, language, profile, C4 lines, quality rules, thresholds. The first drop reason counts.
    """
    thresholds = thresholds_by_profile(config)
    decide = find_violations(config.quality_rules)
    clean = make_line_cleaner(config.line_filter) if config.line_filter else None

    def filter_batch(records: Sequence[Record]) -> Sequence[FilterResult]:
        cases = [inspect_record(record, config) for record in records]
        stats = measure(cases)
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
            stats = measure(cases)
        apply_quality_rules(cases, decide(cases, stats), config.quality_rules)
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


def measure(cases: Sequence[FilterCase]) -> TextStats:
    """Compute the statistics of texts in any script.

    Stop words are those of the text's language if they are more than the English ones. They are not measured (NaN) in a language without
    a list.
    """
    stats = compute_text_stats([languages.measurable_text(case.content) for case in cases])
    for index, case in enumerate(cases):
        if case.is_utf8 and case.language not in ("en", *NOT_A_LANGUAGE):
            count = languages.count_stop_words(case.content, case.language)
            if case.is_certain_language or not np.isnan(count):
                stats.stop_words[index] = np.maximum(stats.stop_words[index], count)
    return stats


def inspect_record(record: Record, config: TextFilterConfig) -> FilterCase:
    """Find and mask personal data and identify the language.

    A record that is not UTF-8 is dropped.
    """
    case = FilterCase(record, record.content)
    if not is_utf8(record.content):
        case.drop_reason, case.is_utf8 = "not_utf8", False
        return case
    if config.pii is not None:
        actions, matches = config.pii.actions(), pii.find_pii(record.content)
        case.counts.update(pii.count_pii(matches))
        case.drop_reason = next((f"pii_{match.kind}" for match in matches if actions[match.kind] == "drop"), None)
        if any(actions[match.kind] == "mask" for match in matches):
            case.content = pii.mask_pii(record.content, matches, actions)
    language_filter = config.language_filter or LanguageFilterConfig()
    case.language, probability = language_id.identify_language(case.content)
    case.is_certain_language = probability >= language_filter.language_threshold
    if config.language_filter is not None:
        case.metadata["language"] = case.language if case.is_certain_language else "unknown"
        case.drop_reason = case.drop_reason or config.language_filter.drop_reason(case.language, probability)
    return case


def is_utf8(content: bytes) -> bool:
    """Return whether `content` is valid UTF-8."""
    try:
        return content.isascii() or bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False


Violations = Mapping[str, Sequence[str | None]]  # of each set of rules, one for each record


def find_violations(config: QualityRulesConfig | None) -> Callable[[Sequence[FilterCase], TextStats], Violations]:
    """Build the function that finds the violations of the published rules."""
    rules_by_name = config.enabled() if config else {}
    if config is None or config.decided_by == "provenlm":
        return lambda cases, stats: {name: first_violations(rules, stats) for name, rules in rules_by_name.items()}
    decide = make_datatrove_rules(rules_by_name)

    def find(cases: Sequence[FilterCase], stats: TextStats) -> Violations:
        violations = [decide(case.content) if case.is_utf8 else {} for case in cases]
        return {name: [found.get(name) for found in violations] for name in rules_by_name}

    return find


def apply_quality_rules(cases: Sequence[FilterCase], violations: Violations, config: QualityRulesConfig | None) -> None:
    """Count violations of the published rules and drop records for them.

    Only records of the profiles in `apply_to` are dropped.
    """
    for name, first in violations.items():
        for case, violation in zip(cases, first, strict=True):
            if violation and case.is_utf8:
                case.counts[f"rules.{name}.violations"] = 1
                if config and case.profile in config.apply_to:
                    case.drop_reason = case.drop_reason or f"{name}_{violation}"


def updated_record(case: FilterCase) -> Record:
    """Return the record with its new content and metadata."""
    record = case.record if case.content == case.record.content else case.record.with_content(case.content)
    return record.with_metadata(**case.metadata) if case.metadata else record


def min_score(config: TextFilterConfig) -> float:
    """Return the score below which a record is dropped."""
    return config.min_score


def describe_count(name: str) -> CountLabel:
    """Label the metric of a count.

    Names are `pii.PATTERN`, `lines.REASON` and `rules.SET.violations`.
    """
    group, _, key = name.partition(".")
    if group == "pii":
        return CountLabel("matches", f"Matches of the personal-data pattern {key} in all records", by_record=True)
    if group == "lines":
        unit = "citations" if key == "citations" else "lines"
        return CountLabel(unit, f"{unit.capitalize()} that the C4 line filter removed: {key}")
    rule_set = key.removesuffix(".violations")
    return CountLabel("records", f"Records that violate the {rule_set} rules, whether or not they are dropped for it")


SPEC = FilterSpec(TextFilterConfig, make_batch_filter, min_score, describe_count)
