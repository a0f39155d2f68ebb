"""What a filter saw, record by record, in; its figures, histograms and a few of the dropped records out."""

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.core.records import Record
from provenlm.filtering.scoring import FilterDecision

GOOD_SCORE = 0.6  # the share of records at or above this score is a figure, before and after
EXAMPLES_PER_REASON = 3  # dropped records shown for each reason
RECORD_EXCERPT_CHARS = 120  # characters of each
NUM_LOWEST_SCORING = 5  # kept records shown


@dataclass
class FilterTally:
    """What was seen, before (`in`) and after (`kept`), in the order of the records."""

    scores: "array[float]" = field(default_factory=lambda: array("d"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))  # of each body as it came in
    kept_flags: "array[int]" = field(default_factory=lambda: array("b"))  # 1 or 0
    bytes_masked: int = 0  # bytes by which kept bodies shrank
    hits: Counter[str] = field(default_factory=Counter)  # of what was looked for, how often
    documents_with: Counter[str] = field(default_factory=Counter)  # and in how many records
    profiles: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # records in, kept
    sub_scores: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0])
    )  # sums in and kept, records below 1
    lowest_scoring: list[FilterDecision] = field(default_factory=list)  # of those kept, without their bodies
    drop_reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[FilterDecision]] = field(default_factory=lambda: defaultdict(list))

    def add(self, decision: FilterDecision) -> None:
        self.scores.append(decision.score)
        self.sizes.append(decision.original_bytes)
        self.kept_flags.append(decision.drop_reason is None)
        self.hits.update(decision.counts)
        self.documents_with.update(decision.counts.keys())
        profile_counts = self.profiles[str(decision.record.metadata.get("profile", "reference"))]
        profile_counts[0] += 1
        for name, sub_score in decision.sub_scores.items():
            sums = self.sub_scores[name]
            sums[0] += sub_score
            sums[1] += sub_score if decision.drop_reason is None else 0
            sums[2] += sub_score < 1
        if decision.drop_reason is None:
            self.bytes_masked += decision.original_bytes - len(decision.record.content)
            profile_counts[1] += 1
            if len(self.lowest_scoring) < NUM_LOWEST_SCORING or decision.score < self.lowest_scoring[-1].score:
                truncated = replace(
                    decision, record=replace(decision.record, body=decision.record.content[: 8 * RECORD_EXCERPT_CHARS])
                )
                self.lowest_scoring = sorted([*self.lowest_scoring, truncated], key=lambda item: item.score)[:NUM_LOWEST_SCORING]
        if decision.drop_reason is not None:
            self.drop_reasons[decision.drop_reason] += 1
            if len(self.examples[decision.drop_reason]) < EXAMPLES_PER_REASON:
                self.examples[decision.drop_reason].append(decision)


def drop_summary(reasons: Counter[str]) -> str:
    """The reasons and their counts in one line."""
    return "dropped " + (", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none: there were no records")


def record_filter_metrics(metrics: MetricRecorder, tally: FilterTally) -> None:
    scores, sizes, kept_mask = np.array(tally.scores), np.array(tally.sizes), np.array(tally.kept_flags, bool)
    metrics.add_count("records.in", len(kept_mask), "records", "scraped records that were judged")
    metrics.add_count("records.kept", int(kept_mask.sum()), "records", "records that no rule dropped and whose score sufficed")
    for reason, count in sorted(tally.drop_reasons.items()):
        metrics.add_count(f"dropped.{reason}", count, "records", f"records dropped for the reason {reason}")
    unaccounted = len(kept_mask) - int(kept_mask.sum()) - sum(tally.drop_reasons.values())
    metrics.add_count(
        "balance", unaccounted, "records", "records in, less kept, less the sum of dropped by reason: 0 if none was lost"
    )
    metrics.add_count("bytes.in", int(sizes.sum()), "bytes", "bodies of the scraped records")
    metrics.add_count(
        "bytes.kept", int(sizes[kept_mask].sum()) - tally.bytes_masked, "bytes", "bodies of the kept records, as they were written"
    )
    metrics.add_count(
        "bytes.masked",
        tally.bytes_masked,
        "bytes",
        "bytes by which signs in place of private data, and lines taken out, make kept bodies shorter",
    )
    metrics.add_count("bytes.dropped", int(sizes[~kept_mask].sum()), "bytes", "bodies of the dropped records")
    for moment, selected in (("before", scores), ("after", scores[kept_mask])):
        with metrics.scope(f"score.{moment}") as scoped:
            description = f"of the scores of all records {moment} the selection"
            scoped.add_measurement("mean", round(float(selected.mean()), 6), "score", f"mean {description}")
            scoped.add_measurement("median", round(float(np.median(selected)), 6), "score", f"median {description}")
            scoped.add_measurement(
                "share_good",
                round(float((selected >= GOOD_SCORE).mean()), 6),
                "share",
                f"share of {GOOD_SCORE} or more {description}",
            )
    for name, (num_in, num_kept) in sorted(tally.profiles.items()):
        metrics.add_count(f"profile.{name}", num_in, "records", f"records judged as {name}")
        metrics.add_count(f"profile.{name}.kept", num_kept, "records", f"kept records that were judged as {name}")
    for name, count in sorted(tally.hits.items()):
        if name.startswith("rules."):
            metrics.add_count(
                f"{name}.outside", count, "records", "records that this published set of rules would drop, dropped or not"
            )
        elif name.startswith("lines."):
            metrics.add_count(
                name, count, "citations" if name == "lines.citations" else "lines", "taken out of records for this reason"
            )
        else:
            metrics.add_count(name, count, "finds", "places in records that match this pattern of private data")
            metrics.add_count(f"{name}.records", tally.documents_with[name], "records", "records that hold one")
    metrics.series += [score_histogram(scores, kept_mask), size_histogram(sizes, kept_mask)]
    metrics.tables += [dropped_examples_table(tally), sub_score_table(tally), lowest_scoring_table(tally)]


def score_histogram(scores: NDArray[np.float64], kept_mask: NDArray[np.bool_]) -> PlotSeries:
    edges = np.linspace(0, 1, 21)
    lines = {name: np.histogram(values, edges)[0].tolist() for name, values in (("before", scores), ("after", scores[kept_mask]))}
    return PlotSeries("scores", "bars", "records by score, before and after", "score", "records", edges.round(3).tolist(), lines)


def size_histogram(sizes: NDArray[np.int64], kept_mask: NDArray[np.bool_]) -> PlotSeries:
    edges = np.array([0.0, *2.0 ** np.arange(np.ceil(np.log2(sizes.max() + 2)) + 1)])
    lines = {name: np.histogram(values, edges)[0].tolist() for name, values in (("before", sizes), ("after", sizes[kept_mask]))}
    return PlotSeries(
        "lengths", "bars", "records by length, before and after", "bytes of the body", "records", edges.tolist(), lines
    )


def dropped_examples_table(tally: FilterTally) -> AuditTable:
    rows = [
        (item.record.source, reason, round(item.score, 4), record_excerpt(item.record))
        for reason, items in sorted(tally.examples.items())
        for item in items
    ]
    description = (
        f"the first {EXAMPLES_PER_REASON} records dropped for each reason, with the first {RECORD_EXCERPT_CHARS} characters"
    )
    return AuditTable("dropped", description, ("source", "reason", "score", "text"), rows)


def sub_score_table(tally: FilterTally) -> AuditTable:
    """What the scores are made of, the part that costs most first."""
    num_records, num_kept = max(1, len(tally.kept_flags)), max(1, sum(tally.kept_flags))
    order = sorted(tally.sub_scores, key=lambda name: (tally.sub_scores[name][0], name))
    rows = [
        (name, round(sum_in / num_records, 4), round(sum_kept / num_kept, 4), int(num_below))
        for name in order
        for sum_in, sum_kept, num_below in [tally.sub_scores[name]]
    ]
    return AuditTable("parts", "the parts of the scores", ("part", "mean before", "mean after", "records below 1"), rows)


def lowest_scoring_table(tally: FilterTally) -> AuditTable:
    """The kept records that a stricter filter would drop first, and why."""
    rows = [
        (decision.record.source, round(decision.score, 4), weakest_sub_scores(decision), record_excerpt(decision.record))
        for decision in tally.lowest_scoring
    ]
    return AuditTable(
        "lowest", f"the {NUM_LOWEST_SCORING} kept records of the lowest score", ("source", "score", "lowest parts", "text"), rows
    )


def weakest_sub_scores(decision: FilterDecision) -> str:
    weakest = sorted((sub_score, name) for name, sub_score in decision.sub_scores.items() if sub_score < 1)[:3]
    return ", ".join(f"{name} {sub_score:.2f}" for sub_score, name in weakest)


def record_excerpt(item: Record) -> str:
    return " ".join(item.content[: 8 * RECORD_EXCERPT_CHARS].decode("utf-8", "replace").split())[:RECORD_EXCERPT_CHARS]
