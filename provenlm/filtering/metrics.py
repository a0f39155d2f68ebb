"""Collect the metrics, histograms and example tables of a filter run."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.core.interfaces import CountLabel
from provenlm.core.records import Record
from provenlm.filtering.scoring import FilterDecision

GOOD_SCORE = 0.6  # the fraction of records with at least this score is a metric
EXAMPLES_PER_REASON = 3  # dropped records shown for each reason
RECORD_EXCERPT_CHARS = 120  # characters shown of each record
WARNING_FRACTION = 0.9  # of the records of a language dropped by one rule: the rule rather than the text is at fault
MIN_WARNING_RECORDS = 3  # of a language, for a warning
CHOSEN_REASONS = ("other_language",)  # the user asked for them
NUM_LOWEST_SCORING = 5  # kept records with the lowest scores that are shown


@dataclass
class FilterTally:
    """Accumulate the filter decisions on all records, in their order."""

    scores: "array[float]" = field(default_factory=lambda: array("d"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))  # bytes of each record's content before filtering
    kept_flags: "array[int]" = field(default_factory=lambda: array("b"))  # 1 or 0
    bytes_masked: int = 0  # bytes that masking and line removal took from kept records
    hits: Counter[str] = field(default_factory=Counter)  # occurrences by metric name
    documents_with: Counter[str] = field(default_factory=Counter)  # records with an occurrence, by metric name
    profiles: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # number of records, number kept
    sub_scores: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0])
    )  # sum over all records, sum over kept ones, records below 1
    lowest_scoring: list[FilterDecision] = field(default_factory=list)  # kept records, content truncated
    drop_reasons: Counter[str] = field(default_factory=Counter)
    languages: dict[str, Counter[str | None]] = field(default_factory=lambda: defaultdict(Counter))  # drop reasons; None: kept
    examples: dict[str, list[FilterDecision]] = field(default_factory=lambda: defaultdict(list))

    def add(self, decision: FilterDecision) -> None:
        """Count one decision."""
        self.scores.append(decision.score)
        self.sizes.append(decision.original_bytes)
        self.kept_flags.append(decision.drop_reason is None)
        self.hits.update(decision.counts)
        self.documents_with.update(decision.counts.keys())
        if "profile" in decision.record.metadata:
            profile_counts = self.profiles[str(decision.record.metadata["profile"])]
            profile_counts[0] += 1
            profile_counts[1] += decision.drop_reason is None
        if "language" in decision.record.metadata:
            self.languages[str(decision.record.metadata["language"])][decision.drop_reason] += 1
        for name, sub_score in decision.sub_scores.items():
            sums = self.sub_scores[name]
            sums[0] += sub_score
            sums[1] += sub_score if decision.drop_reason is None else 0
            sums[2] += sub_score < 1
        if decision.drop_reason is None:
            self.bytes_masked += decision.original_bytes - len(decision.record.content)
            if len(self.lowest_scoring) < NUM_LOWEST_SCORING or decision.score < self.lowest_scoring[-1].score:
                truncated = replace(
                    decision, record=replace(decision.record, content=decision.record.content[: 8 * RECORD_EXCERPT_CHARS])
                )
                self.lowest_scoring = sorted([*self.lowest_scoring, truncated], key=lambda item: item.score)[:NUM_LOWEST_SCORING]
        if decision.drop_reason is not None:
            self.drop_reasons[decision.drop_reason] += 1
            if len(self.examples[decision.drop_reason]) < EXAMPLES_PER_REASON:
                self.examples[decision.drop_reason].append(decision)


def drop_summary(reasons: Counter[str]) -> str:
    """Format drop reasons and their counts as one line."""
    return "dropped " + (", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none: there were no records")


def outcome_summary(tally: FilterTally) -> str:
    """Format what became of all records as one line."""
    parts = [f"kept {sum(tally.kept_flags)} of {len(tally.kept_flags)} records"]
    return "; ".join(parts + ([drop_summary(tally.drop_reasons)] if tally.drop_reasons else []))


def language_warnings(tally: FilterTally) -> list[str]:
    """Name each rule that dropped nearly all records of a language."""
    return [
        f"warning: {reason} dropped {count} of {reasons.total()} records in language {language}: check that the rule suits this language"
        for language, reasons in sorted(tally.languages.items())
        for reason, count in reasons.items()
        if reason is not None
        and reason not in CHOSEN_REASONS
        and language not in ("unknown", "zxx")
        and reasons.total() >= MIN_WARNING_RECORDS
        and count >= WARNING_FRACTION * reasons.total()
    ]


def record_filter_metrics(metrics: MetricRecorder, tally: FilterTally, describe_count: Callable[[str], CountLabel]) -> None:
    """Record the counts, scores, histograms and example tables of a filter run."""
    scores, sizes, kept_mask = np.array(tally.scores), np.array(tally.sizes), np.array(tally.kept_flags, bool)
    metrics.add_count("records.in", len(kept_mask), "records", "Scraped records that the filter read")
    metrics.add_count(
        "records.kept",
        int(kept_mask.sum()),
        "records",
        "Records that the filter kept: no rule dropped them and their score reached min_score",
    )
    for reason, count in sorted(tally.drop_reasons.items()):
        metrics.add_count(f"dropped.{reason}", count, "records", f"Records that the filter dropped for the reason {reason}")
    unaccounted = len(kept_mask) - int(kept_mask.sum()) - sum(tally.drop_reasons.values())
    metrics.add_count(
        "unaccounted", unaccounted, "records", "Records in minus records kept minus records dropped: 0 if the filter lost none"
    )
    metrics.add_check("unaccounted", "== 0", "records were lost in the filter: each must be kept or dropped for a reason")
    metrics.add_count("bytes.in", int(sizes.sum()), "bytes", "Content of the scraped records")
    metrics.add_count(
        "bytes.kept", int(sizes[kept_mask].sum()) - tally.bytes_masked, "bytes", "Content of the kept records as written"
    )
    metrics.add_count(
        "bytes.masked",
        tally.bytes_masked,
        "bytes",
        "Bytes that masked personal data and removed lines took from the content of kept records",
    )
    metrics.add_count("bytes.dropped", int(sizes[~kept_mask].sum()), "bytes", "Content of the dropped records")
    for moment, selected in (("before", scores), ("after", scores[kept_mask])):
        with metrics.scope(f"score.{moment}") as scoped:
            description = f"quality score of the records {moment} filtering"
            scoped.add_measurement("mean", round(float(selected.mean()), 6), "score", f"Mean {description}")
            scoped.add_measurement("median", round(float(np.median(selected)), 6), "score", f"Median {description}")
            scoped.add_measurement(
                "frac_ge_0_6",
                round(float((selected >= GOOD_SCORE).mean()), 6),
                "fraction",
                f"Fraction of the records {moment} filtering whose quality score is at least {GOOD_SCORE}",
            )
    for name, (num_in, num_kept) in sorted(tally.profiles.items()):
        metrics.add_count(f"profile.{name}", num_in, "records", f"Records classified as {name}")
        metrics.add_count(f"profile.{name}.kept", num_kept, "records", f"Kept records that were classified as {name}")
    for name, count in sorted(tally.hits.items()):
        label = describe_count(name)
        metrics.add_count(name, count, label.unit, label.description)
        if label.by_record:
            num_records = tally.documents_with[name]
            metrics.add_count(f"{name}.records", num_records, "records", f"Records with at least one of: {label.description}")
    metrics.series += [score_histogram(scores, kept_mask), size_histogram(sizes, kept_mask)]
    if tally.languages:
        metrics.tables.append(language_table(tally))
    metrics.tables += [dropped_examples_table(tally), sub_score_table(tally), lowest_scoring_table(tally)]


def score_histogram(scores: NDArray[np.float64], kept_mask: NDArray[np.bool_]) -> PlotSeries:
    """Count records by score, before and after filtering."""
    edges = np.linspace(0, 1, 21)
    lines = {name: np.histogram(values, edges)[0].tolist() for name, values in (("before", scores), ("after", scores[kept_mask]))}
    return PlotSeries(
        "scores", "hist", "Records by quality score, before and after filtering", "score", "records", edges.round(3).tolist(), lines
    )


def size_histogram(sizes: NDArray[np.int64], kept_mask: NDArray[np.bool_]) -> PlotSeries:
    """Count records by content size in powers of two, before and after filtering."""
    edges = np.array([0.0, *2.0 ** np.arange(np.ceil(np.log2(sizes.max() + 2)) + 1)])
    lines = {name: np.histogram(values, edges)[0].tolist() for name, values in (("before", sizes), ("after", sizes[kept_mask]))}
    return PlotSeries(
        "lengths", "hist", "Records by size, before and after filtering", "bytes of content", "records", edges.tolist(), lines
    )


def language_table(tally: FilterTally) -> AuditTable:
    """List the records of each language before and after each drop reason.

    The most frequent language comes first.
    """
    rows: list[tuple[str, str, int, int, int]] = []
    for language, reasons in sorted(tally.languages.items(), key=lambda item: (-item[1].total(), item[0])):
        remaining = reasons.total()
        for reason, count in sorted(
            ((reason, count) for reason, count in reasons.items() if reason), key=lambda item: (-item[1], item[0])
        ):
            rows.append((language, reason, remaining, count, remaining - count))
            remaining -= count
        rows.append((language, "all rules", reasons.total(), reasons.total() - reasons[None], reasons[None]))
    return AuditTable(
        "languages",
        "Records by language before and after each drop reason, the most frequent reason first",
        ("language", "drop reason", "before", "dropped", "after"),
        rows,
    )


def dropped_examples_table(tally: FilterTally) -> AuditTable:
    """List the first dropped records of each reason."""
    rows = [
        (item.record.source, reason, round(item.score, 4), record_excerpt(item.record))
        for reason, items in sorted(tally.examples.items())
        for item in items
    ]
    description = (
        f"The first {EXAMPLES_PER_REASON} records dropped for each reason, with the first {RECORD_EXCERPT_CHARS} characters"
    )
    return AuditTable("dropped", description, ("source", "drop reason", "score", "text"), rows)


def sub_score_table(tally: FilterTally) -> AuditTable:
    """List the mean of each sub-score, the lowest first."""
    num_records, num_kept = max(1, len(tally.kept_flags)), max(1, sum(tally.kept_flags))
    order = sorted(tally.sub_scores, key=lambda name: (tally.sub_scores[name][0], name))
    rows = [
        (name, round(sum_in / num_records, 4), round(sum_kept / num_kept, 4), int(num_below))
        for name in order
        for sum_in, sum_kept, num_below in [tally.sub_scores[name]]
    ]
    return AuditTable(
        "sub_scores",
        "Sub-scores of the quality score, lowest mean first",
        ("sub-score", "mean before", "mean after", "records below 1"),
        rows,
    )


def lowest_scoring_table(tally: FilterTally) -> AuditTable:
    """List the kept records with the lowest scores and their weakest sub-scores."""
    rows = [
        (decision.record.source, round(decision.score, 4), weakest_sub_scores(decision), record_excerpt(decision.record))
        for decision in tally.lowest_scoring
    ]
    return AuditTable(
        "lowest_scoring",
        f"The {NUM_LOWEST_SCORING} kept records with the lowest scores",
        ("source", "score", "weakest sub-scores", "text"),
        rows,
    )


def weakest_sub_scores(decision: FilterDecision) -> str:
    """Format the three lowest sub-scores below 1."""
    weakest = sorted((sub_score, name) for name, sub_score in decision.sub_scores.items() if sub_score < 1)[:3]
    return ", ".join(f"{name} {sub_score:.2f}" for sub_score, name in weakest)


def record_excerpt(item: Record) -> str:
    """Return the first characters of a record with whitespace collapsed."""
    return " ".join(item.content[: 8 * RECORD_EXCERPT_CHARS].decode("utf-8", "replace").split())[:RECORD_EXCERPT_CHARS]
