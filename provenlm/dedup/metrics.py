"""Collect the metrics and example tables of deduplication."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.core.ngram_hashing import Hashes, hash_words, sorted_unique
from provenlm.dedup.near_duplicates import DedupResult
from provenlm.dedup.paragraph_dedup import DuplicateSpan, ParagraphIndex

MAX_EXAMPLES = 20  # near-duplicates and repeated paragraphs shown
EXCERPT_CHARS = 100  # characters shown of a paragraph


@dataclass
class UniqueWordCounter:
    """Count words and distinct words by their 64-bit hashes, merging in batches."""

    num_words: int = 0
    _merged_hashes: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    _pending_hashes: list[Hashes] = field(default_factory=list)
    _num_pending: int = 0

    def add(self, content: bytes) -> None:
        """Count the words of one record."""
        hashes = hash_words(content)
        self.num_words += len(hashes)
        self._pending_hashes.append(sorted_unique(hashes))
        self._num_pending += len(self._pending_hashes[-1])
        if self._num_pending > max(1 << 20, len(self._merged_hashes)):
            self._merge()

    def _merge(self) -> None:
        self._merged_hashes, self._pending_hashes, self._num_pending = (
            sorted_unique(np.concatenate([self._merged_hashes, *self._pending_hashes])),
            [],
            0,
        )

    @property
    def num_unique(self) -> int:
        """Return the number of distinct words."""
        self._merge()
        return len(self._merged_hashes)


@dataclass
class RepeatedParagraph:
    """Hold the first characters, repeats and repeated bytes of a paragraph."""

    text: str
    num_repeats: int = 0
    num_bytes: int = 0


@dataclass
class DedupTally:
    """Accumulate counts while the deduplicated records are written."""

    index: ParagraphIndex
    sizes: list[int] = field(default_factory=list)  # content bytes of each input record
    bytes_removed: int = 0  # bytes of removed paragraphs
    num_emptied: int = 0  # records without content after paragraph removal
    repeats_by_kind: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # number, bytes and number removed
    repeated_paragraphs: dict[tuple[int, int], RepeatedParagraph] = field(
        default_factory=dict
    )  # by row and start byte of the first occurrence
    num_written: int = 0
    bytes_written: int = 0
    word_counter: UniqueWordCounter = field(default_factory=UniqueWordCounter)

    def add(self, span: DuplicateSpan, content: bytes) -> None:
        """Count one repeated paragraph."""
        size = span.end - span.start
        totals = self.repeats_by_kind.get(span.kind, (0, 0, 0))
        self.repeats_by_kind[span.kind] = (totals[0] + 1, totals[1] + size, totals[2] + span.removed)
        original = (span.original_row, span.original_start)
        if original not in self.repeated_paragraphs:
            self.repeated_paragraphs[original] = RepeatedParagraph(paragraph_excerpt(content[span.start : span.end]))
        self.repeated_paragraphs[original].num_repeats += 1
        self.repeated_paragraphs[original].num_bytes += size


def summary_line(result: DedupResult, tally: DedupTally) -> str:
    """Say in one line what became of every record."""
    reasons = Counter(duplicate.kind for duplicate in result.duplicates) + Counter(emptied=tally.num_emptied)
    removed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    num_paragraphs = sum(num_removed for _, _, num_removed in tally.repeats_by_kind.values())
    return (
        f"deduplicated {tally.num_written} records; {reasons.total()} removed{': ' if removed else ''}{removed}; "
        f"{num_paragraphs} repeated paragraphs removed"
    )


def record_dedup_metrics(metrics: MetricRecorder, result: DedupResult, tally: DedupTally) -> None:
    """Record how many records, bytes and words were read, removed and written."""
    kinds = Counter(duplicate.kind for duplicate in result.duplicates)
    num_unique, sizes = int(result.kept_mask.sum()) - tally.num_emptied, np.array(tally.sizes)
    cluster_sizes = Counter(result.cluster_ids)
    metrics.add_count("records.in", len(result.ids), "records", "Filtered records that deduplication read")
    metrics.add_count("records.unique", num_unique, "records", "Records that deduplication kept")
    metrics.add_count(
        "duplicates.exact", kinds["exact"], "records", "Removed records whose normalized content equals that of a kept record"
    )
    metrics.add_count(
        "duplicates.near",
        kinds["near"],
        "records",
        "Removed records whose exact Jaccard similarity to a kept record reaches the threshold",
    )
    description = "Records that are empty, or equal to another record, after their repeated paragraphs were removed"
    metrics.add_count("documents.emptied", tally.num_emptied, "records", description)
    unaccounted = len(result.ids) - tally.num_written - len(result.duplicates) - tally.num_emptied
    metrics.add_count(
        "unaccounted",
        unaccounted,
        "records",
        "Records in minus records written minus duplicates minus emptied documents: 0 if deduplication lost none",
    )
    metrics.add_check("unaccounted", "== 0", "records were lost in dedupe: each must be written, a duplicate, or emptied")
    duplicate_bytes = int(sizes[~result.kept_mask].sum())
    metrics.add_count("bytes.in", int(sizes.sum()), "bytes", "Content of the filtered records")
    metrics.add_count("bytes.unique", tally.bytes_written, "bytes", "Content of the deduplicated records as written")
    metrics.add_count(
        "bytes.removed", duplicate_bytes + tally.bytes_removed, "bytes", "Content of removed duplicates and removed paragraphs"
    )
    metrics.add_count(
        "words", tally.word_counter.num_words, "words", "Words of the deduplicated records (runs without ASCII whitespace)"
    )
    metrics.add_count(
        "words.unique", tally.word_counter.num_unique, "words", "Distinct words of the deduplicated records, by 64-bit hash"
    )
    metrics.add_count(
        "clusters", len(cluster_sizes), "clusters", "Duplicate clusters: connected components of duplicates, singletons included"
    )
    metrics.add_count("clusters.largest", max(cluster_sizes.values()), "records", "Records in the largest duplicate cluster")
    metrics.add_count("pairs.candidates", result.num_candidates, "pairs", "Pairs of records that share a MinHash band")
    metrics.add_count(
        "pairs.verified", len(result.pairs), "pairs", "Candidate pairs whose exact Jaccard similarity reaches the threshold"
    )
    metrics.series.append(similarity_histogram(result))
    metrics.tables.append(least_similar_table(result))


def record_containment(metrics: MetricRecorder, result: DedupResult, truth: dict[tuple[int, int], float]) -> None:
    """Record the pairs that clusters join because one contains much of the other.

    `truth` has the pairs that brute force found for sampled rows: none may be in two clusters.
    """
    description = "Pairs of distinct records of which one contains at least the containment threshold of the n-grams of the other"
    metrics.add_count("pairs.contained", len(result.contained.pairs), "pairs", description)
    num_separated = sum(result.cluster_ids[first] != result.cluster_ids[second] for first, second in truth)
    description = f"Number of such pairs that brute force found for sampled records ({len(truth)}) and that are in two clusters"
    metrics.add_count("pairs.separated", num_separated, "pairs", description)
    metrics.add_check("pairs.separated", "== 0", "variants of one record may be in both splits: lower dedupe.containment_threshold")
    description = "Kept records in clusters of two or more kept records: variants that the split keeps together"
    num_kept = Counter(name for name, is_kept in zip(result.cluster_ids, result.kept_mask.tolist(), strict=True) if is_kept)
    metrics.add_count("clusters.variants", sum(count for count in num_kept.values() if count > 1), "records", description)
    metrics.tables.append(least_contained_table(result))


def record_paragraph_metrics(metrics: MetricRecorder, result: DedupResult, tally: DedupTally) -> None:
    """Record repeated and removed paragraphs, with a table of the largest."""
    with metrics.scope("paragraphs") as scoped:
        description = "Paragraphs of at least min_bytes in records that are not duplicates"
        scoped.add_count("total", tally.index.num_paragraphs, "paragraphs", description)
        for kind, name, description in (
            ("within_document", "dup_within_doc", "paragraphs that repeat an earlier one of the same record"),
            ("across_documents", "dup_across_docs", "paragraphs that repeat one of an earlier record"),
        ):
            count, size, removed = tally.repeats_by_kind.get(kind, (0, 0, 0))
            scoped.add_count(name, count, "paragraphs", f"Number of {description}")
            scoped.add_count(f"{name}.bytes", size, "bytes", f"Bytes of {description}")
            scoped.add_count(f"{name}.removed", removed, "paragraphs", f"Removed {description}")
    order = sorted(tally.repeated_paragraphs, key=lambda original: (-tally.repeated_paragraphs[original].num_bytes, original))[
        :MAX_EXAMPLES
    ]
    rows = [
        (result.sources[row], start, paragraph.num_repeats, paragraph.num_bytes, paragraph.text)
        for row, start in order
        for paragraph in [tally.repeated_paragraphs[row, start]]
    ]
    columns = ("first occurrence in", "at byte", "repeats", "bytes of the repeats", "text")
    metrics.tables.append(
        AuditTable("repeated_paragraphs", f"The {MAX_EXAMPLES} repeated paragraphs with the most bytes", columns, rows)
    )


def record_recall(metrics: MetricRecorder, result: DedupResult, pivots: list[int], truth: dict[tuple[int, int], float]) -> None:
    """Record recall and precision against brute force.

    `truth` has the similar pairs that brute force found for the sampled rows `pivots`.

    A metric without cases is text that says so.
    """
    is_kept = dict(zip(result.representatives.tolist(), result.representative_kept_mask.tolist(), strict=True))
    num_missed = sum(is_kept[first] and is_kept[second] for first, second in truth)
    removed = [row for row in pivots if not is_kept[row]]
    similar_to_kept = {row for pair in truth for row, second in (pair, pair[::-1]) if is_kept[second]}
    size = len(pivots)
    metrics.add_count(
        "brute_force.records", size, "records", "Records, sampled by hash, that were compared with every other record"
    )
    pairs = f"pairs whose Jaccard similarity reaches the threshold (brute force, {size} sampled records)"
    metrics.add_count("brute_force.pairs", len(truth), "pairs", f"Number of {pairs}")
    metrics.add_count("pairs_missed", num_missed, "pairs", f"Number of {pairs} of which both records were kept")
    recall = (len(truth) - num_missed) / len(truth) if truth else "no pairs"
    description = f"Dedup recall: fraction of the {pairs} of which at most one record was kept"
    metrics.add_measurement("recall", recall, "fraction", description)
    if truth:
        metrics.add_check("recall", ">= 0.99", "near-duplicates were missed: lower dedupe.jaccard_threshold")
    precision = sum(row in similar_to_kept for row in removed) / len(removed) if removed else "none removed"
    description = f"Dedup precision: fraction of the removed records (among {size} sampled ones) that are similar to a kept record"
    metrics.add_measurement("precision", precision, "fraction", description)
    if removed:
        metrics.add_check("precision", ">= 0.99", "records were removed that duplicate nothing: raise dedupe.jaccard_threshold")


def record_synthetic_recall(metrics: MetricRecorder, detected: Sequence[bool]) -> None:
    """Record the recall of MinHash on synthetic near-duplicates.

    Their similarity is exactly at the threshold, which is the hardest case.
    """
    copies = "synthetic near-duplicates: copies of records, changed until their Jaccard similarity is at the threshold"
    metrics.add_count("synthetic_copies", len(detected), "copies", f"Number of {copies}")
    recall = sum(detected) / len(detected) if detected else "no copies"
    description = "Fraction of the synthetic near-duplicates at the Jaccard threshold that share a MinHash band with their original"
    metrics.add_measurement("synthetic_recall", recall, "fraction", description)


def paragraph_excerpt(paragraph: bytes) -> str:
    """Return the first characters of a paragraph with whitespace collapsed."""
    return " ".join(paragraph[: 4 * EXCERPT_CHARS].decode("utf-8", "replace").split())[:EXCERPT_CHARS]


def similarity_histogram(result: DedupResult) -> PlotSeries:
    """Count removed records by their similarity to the kept record."""
    edges = np.linspace(0, 1, 21)
    counts = np.histogram([duplicate.similarity for duplicate in result.duplicates], edges)[0].tolist()
    description = "Removed records by Jaccard similarity to the kept record"
    return PlotSeries(
        "similarities", "hist", description, "Jaccard similarity", "records", edges.round(3).tolist(), {"removed": counts}
    )


def least_contained_table(result: DedupResult) -> AuditTable:
    """List the joined pairs with the lowest containment."""
    order = np.argsort(result.contained.containments, kind="stable")[:MAX_EXAMPLES].tolist()
    rows = [
        (result.sources[first], result.sources[second], round(float(result.contained.containments[index]), 4))
        for index in order
        for first, second in [result.contained.pairs[index].tolist()]
    ]
    title = f"The {MAX_EXAMPLES} pairs of records in one cluster with the lowest containment"
    return AuditTable("contained_records", title, ("record", "other record", "containment"), rows)


def least_similar_table(result: DedupResult) -> AuditTable:
    """List the removed near-duplicates with the lowest similarity."""
    near = sorted(
        (duplicate for duplicate in result.duplicates if duplicate.kind == "near"),
        key=lambda duplicate: (duplicate.similarity, duplicate.row),
    )[:MAX_EXAMPLES]
    rows = [
        (result.sources[duplicate.row], result.sources[duplicate.kept_row], round(duplicate.similarity, 4)) for duplicate in near
    ]
    return AuditTable(
        "near_duplicates",
        f"The {MAX_EXAMPLES} removed near-duplicates with the lowest similarity",
        ("removed", "kept", "similarity"),
        rows,
    )
