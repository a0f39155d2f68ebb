"""Filter scores by rules on notes, rhythm and repetition.

Each rule drops with its name as the reason, and scores what it keeps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from provenlm.core.errors import DataError
from provenlm.core.interfaces import FilterResult, FilterSpec
from provenlm.core.records import Record
from provenlm.domains.music.content import musical_metrics
from provenlm.domains.music.content.musical_metrics import STEPS_PER_BAR, STEPS_PER_QUARTER, measure_notes
from provenlm.domains.music.content.score import note_table, read_score


@dataclass(frozen=True)
class MusicFilterConfig:
    """Configure which scores are kept. Bars have four quarter notes, beats one.

    The defaults drop metronomes, loops, fragments, clusters, sparse and doubled scores.
    min_scale_consistency: scores below it are flagged (`atonal` in their metadata), not dropped, so that atonal music is kept.
    min_score: records with a lower score are dropped.
    """

    min_notes: int = 48
    min_bars: float = 8.0
    max_bars: float = 512.0
    min_notes_per_beat: float = 0.5
    max_notes_per_beat: float = 40.0
    min_pitch_entropy: float = 2.5
    min_pitch_classes: int = 4
    max_empty_beat_ratio: float = 0.5
    max_polyphony: float = 12.0
    max_duplicated_note_ratio: float = 0.2
    max_repeated_bar_ratio: float = 0.8
    min_scale_consistency: float = 0.7
    min_score: float = 0.0

    def __post_init__(self) -> None:
        for low, high in (("min_bars", "max_bars"), ("min_notes_per_beat", "max_notes_per_beat")):
            if not 0 <= getattr(self, low) < getattr(self, high):
                raise ValueError(f"{low} must be >= 0 and < {high}, got {getattr(self, low)} and {getattr(self, high)}")
        for name in (
            "max_empty_beat_ratio",
            "max_duplicated_note_ratio",
            "max_repeated_bar_ratio",
            "min_scale_consistency",
            "min_score",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")


class Rule(NamedTuple):
    """Limit one property of a score."""

    drop_reason: str
    value: float
    low: float
    high: float


def apply_rules(record: Record, config: MusicFilterConfig) -> tuple[list[Rule], dict[str, float]]:
    """Return the rules with their values for a record, and its metrics.

    Both are empty for a score without notes.
    """
    notes = note_table(read_score(record.content), STEPS_PER_QUARTER)
    if not len(notes):
        return [], {}
    metrics = measure_notes(notes)
    infinite = float("inf")
    rules = [
        Rule("too_few_notes", len(notes), config.min_notes, infinite),
        Rule("length", notes.num_steps / STEPS_PER_BAR, config.min_bars, config.max_bars),
        Rule("notes_per_beat", metrics["notes_per_beat"], config.min_notes_per_beat, config.max_notes_per_beat),
        Rule("pitch_entropy", metrics["pitch_entropy"], config.min_pitch_entropy, infinite),
        Rule("pitch_classes", metrics["num_pitch_classes"], config.min_pitch_classes, infinite),
        Rule("empty_beats", metrics["empty_beat_ratio"], 0.0, config.max_empty_beat_ratio),
        Rule("polyphony", metrics["polyphony"], 0.0, config.max_polyphony),
        Rule("duplicated_notes", musical_metrics.duplicated_note_ratio(notes), 0.0, config.max_duplicated_note_ratio),
        Rule("repeated_bars", musical_metrics.repeated_bar_ratio(notes), 0.0, config.max_repeated_bar_ratio),
    ]
    return rules, metrics


def make_batch_filter(config: MusicFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    """Build the filter; a record is dropped for the first rule that it breaks."""

    def classify(record: Record) -> FilterResult:
        try:
            rules, metrics = apply_rules(record, config)
        except DataError:
            return FilterResult(record, "unreadable", {}, {})
        if not rules:
            return FilterResult(record, "no_notes", {}, {})
        is_atonal = metrics["scale_consistency"] < config.min_scale_consistency
        counts = {"music.notes": int(rules[0].value), "music.atonal": int(is_atonal)}
        drop_reason = next((rule.drop_reason for rule in rules if not rule.low <= rule.value <= rule.high), None)
        return FilterResult(
            record.with_metadata(atonal=True) if is_atonal else record,
            drop_reason,
            {rule.drop_reason: margin(rule) for rule in rules} | {"scale_consistency": metrics["scale_consistency"]},
            counts,
        )

    return lambda records: [classify(record) for record in records]


def margin(rule: Rule) -> float:
    """Return how far a value is inside the limits of a rule.

    It is 0.5 at a limit and 1 from twice a lower or half an upper limit on.
    """
    if not rule.low <= rule.value <= rule.high:
        return 0.0
    below = 1.0 if rule.low <= 0 else rule.value / (2 * rule.low)
    above = 1.0 if rule.value <= 0 or rule.high == float("inf") else rule.high / (2 * rule.value)
    return min(1.0, below, above)


def min_score(config: MusicFilterConfig) -> float:
    """Return the score below which records are dropped."""
    return config.min_score


SPEC = FilterSpec(MusicFilterConfig, make_batch_filter, min_score)
