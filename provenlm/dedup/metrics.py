"""What a search for duplicates found in; its figures, how it compares with an oracle, and a few of the twins out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.core.ngram_hashing import Hashes, hash_words, sorted_unique
from provenlm.dedup.near_duplicates import DedupResult
from provenlm.dedup.paragraph_dedup import DuplicateSpan, ParagraphIndex

MAX_EXAMPLES = 20  # near twins and repeated blocks shown
EXCERPT_CHARS = 100  # characters shown of a block


@dataclass
class UniqueWordCounter:
    """How many words there are and how many different ones, by their hashes; those of the last records are not yet merged."""

    num_words: int = 0
    _merged_hashes: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    _pending_hashes: list[Hashes] = field(default_factory=list)
    _num_pending: int = 0

    def add(self, content: bytes) -> None:
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
        self._merge()
        return len(self._merged_hashes)


@dataclass
class RepeatedParagraph:
    """A block that is repeated: how it begins, how often it stands again, and the bytes that this takes."""

    text: str
    num_repeats: int = 0
    num_bytes: int = 0


@dataclass
class DedupTally:
    """What the reading that writes leaves behind, over all records: what came in, what went and why, what was written."""

    index: ParagraphIndex
    sizes: list[int] = field(default_factory=list)  # of each body that came in
    bytes_removed: int = 0  # bytes of blocks that were removed
    num_emptied: int = 0  # records of which nothing is left
    repeats_by_kind: dict[str, tuple[int, int, int]] = field(
        default_factory=dict
    )  # repeated blocks, their bytes, how many were removed
    repeated_paragraphs: dict[tuple[int, int], RepeatedParagraph] = field(default_factory=dict)  # by row and start
    num_written: int = 0
    bytes_written: int = 0
    word_counter: UniqueWordCounter = field(default_factory=UniqueWordCounter)

    def add(self, span: DuplicateSpan, content: bytes) -> None:
        size = span.end - span.start
        totals = self.repeats_by_kind.get(span.kind, (0, 0, 0))
        self.repeats_by_kind[span.kind] = (totals[0] + 1, totals[1] + size, totals[2] + span.removed)
        original = (span.original_row, span.original_start)
        if original not in self.repeated_paragraphs:
            self.repeated_paragraphs[original] = RepeatedParagraph(block_excerpt(content[span.start : span.end]))
        self.repeated_paragraphs[original].num_repeats += 1
        self.repeated_paragraphs[original].num_bytes += size


def record_dedup_metrics(metrics: MetricRecorder, result: DedupResult, tally: DedupTally) -> None:
    kinds = Counter(duplicate.kind for duplicate in result.duplicates)
    num_unique, sizes = int(result.kept_mask.sum()) - tally.num_emptied, np.array(tally.sizes)
    cluster_sizes = Counter(result.cluster_ids)
    metrics.add_count("records.in", len(result.ids), "records", "filtered records that were compared")
    metrics.add_count("records.unique", num_unique, "records", "records that repeat none that is kept")
    metrics.add_count("twins.exact", kinds["exact"], "records", "records equal to a kept one in their canonical form")
    metrics.add_count("twins.near", kinds["near"], "records", "records whose similarity to a kept one was verified")
    description = "records of which, less their repeated blocks, nothing is left, or nothing that does not stand elsewhere"
    metrics.add_count("emptied", tally.num_emptied, "records", description)
    unaccounted = len(result.ids) - tally.num_written - len(result.duplicates) - tally.num_emptied
    metrics.add_count(
        "balance", unaccounted, "records", "records in, less those written, less twins, less emptied: 0 if none was lost"
    )
    duplicate_bytes = int(sizes[~result.kept_mask].sum())
    metrics.add_count("bytes.in", int(sizes.sum()), "bytes", "bodies of the filtered records")
    metrics.add_count("bytes.unique", tally.bytes_written, "bytes", "bodies of the unique records, as they were written")
    metrics.add_count(
        "bytes.removed", duplicate_bytes + tally.bytes_removed, "bytes", "bodies of the twins, and blocks that were removed"
    )
    metrics.add_count("words", tally.word_counter.num_words, "words", "words of the unique records: runs without ASCII whitespace")
    metrics.add_count("words.unique", tally.word_counter.num_unique, "words", "different ones among them, by their 64-bit hashes")
    metrics.add_count("clusters", len(cluster_sizes), "clusters", "sets of records connected by twins, single records included")
    metrics.add_count("clusters.largest", max(cluster_sizes.values()), "records", "records in the largest cluster")
    metrics.add_count("pairs.candidates", result.num_candidates, "pairs", "pairs of records that share a band of their signatures")
    metrics.add_count("pairs.verified", len(result.pairs), "pairs", "candidates whose exact similarity reaches the threshold")
    metrics.series.append(similarity_histogram(result))
    metrics.tables.append(least_similar_table(result))


def record_paragraph_metrics(metrics: MetricRecorder, result: DedupResult, tally: DedupTally) -> None:
    """How many blocks stood before, how many of them were removed, and the ones that cost most."""
    with metrics.scope("blocks") as scoped:
        scoped.add_count("in", tally.index.num_blocks, "blocks", "blocks of the records that are no twins, from the least size on")
        for kind, description in (
            ("inside", "that stood before in their own record"),
            ("across", "that stood in an earlier record"),
        ):
            count, size, removed = tally.repeats_by_kind.get(kind, (0, 0, 0))
            scoped.add_count(kind, count, "blocks", f"blocks {description}")
            scoped.add_count(f"{kind}.bytes", size, "bytes", f"bytes of blocks {description}")
            scoped.add_count(f"{kind}.removed", removed, "blocks", f"removed blocks {description}")
    order = sorted(tally.repeated_paragraphs, key=lambda original: (-tally.repeated_paragraphs[original].num_bytes, original))[
        :MAX_EXAMPLES
    ]
    rows = [
        (result.sources[row], start, paragraph.num_repeats, paragraph.num_bytes, paragraph.text)
        for row, start in order
        for paragraph in [tally.repeated_paragraphs[row, start]]
    ]
    columns = ("original in", "at byte", "repeats", "bytes of the repeats", "text")
    metrics.tables.append(AuditTable("repeated_blocks", f"the {MAX_EXAMPLES} repeated blocks that take most bytes", columns, rows))


def record_recall(metrics: MetricRecorder, result: DedupResult, pivots: list[int], truth: dict[tuple[int, int], float]) -> None:
    """Recall and precision of the removal, on the pairs that touch one of `pivots`; words where there is nothing to count."""
    is_kept = dict(zip(result.representatives.tolist(), result.representative_kept_mask.tolist(), strict=True))
    num_missed = sum(is_kept[first] and is_kept[second] for first, second in truth)
    removed = [row for row in pivots if not is_kept[row]]
    similar_to_kept = {row for pair in truth for row, second in (pair, pair[::-1]) if is_kept[second]}
    with metrics.scope("oracle") as scoped:
        scoped.add_count("records", len(pivots), "records", "records, chosen by hash, that were compared with every other one")
        scoped.add_count("pairs", len(truth), "pairs", "pairs with one of these whose exact similarity reaches the threshold")
        scoped.add_count("pairs_left", num_missed, "pairs", "such pairs of which both records were kept")
        recall = (len(truth) - num_missed) / len(truth) if truth else "no pairs"
        scoped.add_measurement("recall", recall, "share", "share of such pairs of which at most one record was kept")
        precision = sum(row in similar_to_kept for row in removed) / len(removed) if removed else "none removed"
        scoped.add_measurement(
            "precision", precision, "share", "share of the removed ones of these records that are similar to a kept one"
        )


def record_synthetic_recall(metrics: MetricRecorder, detected: Sequence[bool]) -> None:
    """Recall of the search on copies that were made to be as hard to find as the threshold allows; what it finds is verified."""
    with metrics.scope("planted") as scoped:
        scoped.add_count(
            "copies", len(detected), "copies", "copies of records, changed until their similarity is just at the threshold"
        )
        recall = sum(detected) / len(detected) if detected else "no copies"
        scoped.add_measurement("recall", recall, "share", "share of these copies that the search would compare with their original")


def block_excerpt(block: bytes) -> str:
    return " ".join(block[: 4 * EXCERPT_CHARS].decode("utf-8", "replace").split())[:EXCERPT_CHARS]


def similarity_histogram(result: DedupResult) -> PlotSeries:
    edges = np.linspace(0, 1, 21)
    counts = np.histogram([duplicate.similarity for duplicate in result.duplicates], edges)[0].tolist()
    description = "records removed, by similarity to the record that is kept"
    return PlotSeries(
        "similarities", "bars", description, "Jaccard similarity", "records", edges.round(3).tolist(), {"removed": counts}
    )


def least_similar_table(result: DedupResult) -> AuditTable:
    near = sorted(
        (duplicate for duplicate in result.duplicates if duplicate.kind == "near"),
        key=lambda duplicate: (duplicate.similarity, duplicate.row),
    )[:MAX_EXAMPLES]
    rows = [
        (result.sources[duplicate.row], result.sources[duplicate.kept_row], round(duplicate.similarity, 4)) for duplicate in near
    ]
    return AuditTable("near_twins", f"the {MAX_EXAMPLES} least similar near twins", ("removed", "kept", "similarity"), rows)
