"""Remove duplicates from the filtered records of a corpus.

Write unique records and a table of duplicates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provenlm.core import interfaces, io, ngram_hashing, records, registry, rng
from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import DataError
from provenlm.core.executors.base import RecordMap, RecordSource
from provenlm.core.interfaces import ParagraphDedupSpec
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.progress import ProgressReporter, log_line, progress_bar
from provenlm.core.records import Record
from provenlm.dedup import brute_force, metrics, minhash, near_duplicates
from provenlm.dedup.metrics import DedupTally
from provenlm.dedup.near_duplicates import DedupResult, NgramHashFn
from provenlm.dedup.paragraph_dedup import ParagraphIndex, find_repeats, index_paragraphs, remove_spans
from provenlm.filtering.parquet_writer import ParquetAppender
from stages import runner

TEXT, INTEGER = pa.string(), pa.int64()
T = TypeVar("T")
REMOVED_SCHEMA = pa.schema(
    {
        "id": TEXT,
        "source": TEXT,
        "start": INTEGER,
        "end": INTEGER,
        "original": TEXT,
        "original_source": TEXT,
        "original_start": INTEGER,
        "kind": TEXT,
    }
)
NUM_PIVOTS = 100  # records compared with all others by brute force, to measure the recall of the search


def run_stage(context: runner.StageContext) -> None:
    """Deduplicate a corpus and record dedup metrics.

    Raises DataError if there are no records.
    """
    spec = registry.load_domain(context.entry["domain"], "dedupe", interfaces.DedupeSpec)
    config: Any = context.parse_section("dedupe", spec.config_type)
    source = context.declare_input(context.paths.corpus_dir(context.subject, "filtered"))
    target = context.declare_output(context.paths.corpus_dir(context.subject, "deduped"))
    num_records, threshold, ngram_hashes = records.count_records(source), spec.jaccard_threshold(config), spec.ngram_hashes(config)
    containment_threshold = spec.containment_threshold(config)
    paragraph_dedup, num_reads = spec.paragraph_dedup(config), 6 if containment_threshold > 1 else 8
    if num_records == 0:
        location = source.relative_to(context.paths.root).as_posix()
        raise DataError(f"{location}: must hold at least one record, got none; relax corpora.{context.subject}.filter")
    with io.atomic_dir(target) as folder, progress_bar(f"dedupe {context.subject}", "records read", num_reads * num_records) as bar:
        corpus = ProgressRecordSource(context.open_records(source), bar)
        result = near_duplicates.find_duplicates(corpus, spec.normalize, ngram_hashes, threshold, containment_threshold)
        tally = DedupTally(
            index_paragraphs(select_rows(corpus, result.kept_mask), paragraph_dedup) if paragraph_dedup else ParagraphIndex()
        )
        with ParquetAppender(folder / "removed_paragraphs.parquet", REMOVED_SCHEMA) as removed_spans:
            records.write_records(
                kept_records(select_rows(corpus, np.ones(num_records, bool)), result, paragraph_dedup, tally, removed_spans), folder
            )
        pq.write_table(duplicate_table(result), folder / "duplicates.parquet", compression="zstd")
        if paragraph_dedup:
            metrics.record_paragraph_metrics(context.recorder, result, tally)
        metrics.record_dedup_metrics(context.recorder, result, tally)
        if min(threshold, containment_threshold) <= 1:
            record_brute_force(context.recorder, corpus, result, ngram_hashes, threshold, containment_threshold)
        bar.update(total=bar.num_done)
    log_line(f"{context.subject}: {metrics.summary_line(result, tally)}")


def record_brute_force(
    recorder: MetricRecorder,
    corpus: RecordSource,
    result: DedupResult,
    ngram_hashes: NgramHashFn,
    threshold: float,
    containment_threshold: float,
) -> None:
    """Compare sampled records with all and record what the searches missed."""
    pivots = sorted(result.representatives.tolist(), key=lambda row: rng.hash_to_unit(result.ids[row], "oracle"))[:NUM_PIVOTS]
    is_pivot, is_representative = (np.isin(np.arange(len(result.ids)), rows) for rows in (pivots, result.representatives))

    def sets_of(mask: NDArray[np.bool_]) -> Iterator[tuple[int, Hashes]]:
        return ((row, ngram_hashing.sorted_unique(ngram_hashes(item))) for row, item in select_rows(corpus, mask))

    sets = dict(sets_of(is_pivot))
    if threshold <= 1:
        synthetic = minhash.detect_synthetic_duplicates({row: members for row, members in sets.items() if len(members)}, threshold)
        metrics.record_synthetic_recall(recorder, synthetic)
        truth = brute_force.brute_force_pairs(sets_of(is_representative), sets, threshold)
        metrics.record_recall(recorder, result, pivots, truth)
    if containment_threshold <= 1:
        truth = brute_force.brute_force_pairs(sets_of(is_representative), sets, containment_threshold, "containment")
        metrics.record_containment(recorder, result, truth)


@dataclass(frozen=True)
class ProgressRecordSource:
    """Advance a progress bar for each record that is read."""

    source: RecordSource
    bar: ProgressReporter

    def read(self) -> Iterator[Record]:
        """Yield every record."""
        for item in self.source.read():
            self.bar.update()
            yield item

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]:
        """Yield every record with its result, in record order."""
        for pair in self.source.map(record_map):
            self.bar.update()
            yield pair


def select_rows(corpus: RecordSource, mask: NDArray[np.bool_]) -> Iterator[tuple[int, Record]]:
    """Yield the records where `mask` is true, with their row number."""
    return ((row, item) for row, item in enumerate(corpus.read()) if mask[row])


def kept_records(
    source: Iterator[tuple[int, Record]],
    result: DedupResult,
    paragraph_dedup: ParagraphDedupSpec | None,
    tally: DedupTally,
    removed_spans: ParquetAppender,
) -> Iterator[Record]:
    """Yield the kept records without the paragraphs to remove.

    Each record has its cluster id as metadata.
    """
    ids: set[str] = set()
    for row, item in source:
        tally.sizes.append(len(item.content))
        if not result.kept_mask[row]:
            continue
        content = without_repeats(row, item, result, paragraph_dedup, tally, removed_spans) if paragraph_dedup else item.content
        if content != item.content:
            tally.bytes_removed += len(item.content) - len(content)
            item = item.with_content(content)
        if paragraph_dedup:
            is_emptied = tally.sizes[-1] > 0 and not content.strip()
            if is_emptied or item.id in ids:  # no content remains, or only content of another record
                tally.num_emptied += 1
                tally.bytes_removed += len(content)
                continue
            ids.add(item.id)
        tally.num_written += 1
        tally.bytes_written += len(item.content)
        tally.word_counter.add(item.content)
        yield item.with_metadata(cluster=result.cluster_ids[row])


def without_repeats(
    row: int,
    item: Record,
    result: DedupResult,
    paragraph_dedup: ParagraphDedupSpec,
    tally: DedupTally,
    removed_spans: ParquetAppender,
) -> bytes:
    """Return the content without repeated paragraphs.

    Log each removed span with its first occurrence (input ids).
    """
    spans = list(find_repeats(row, item, tally.index, paragraph_dedup))
    for span in spans:
        tally.add(span, item.content)
        if span.removed:
            original = {
                "original": result.ids[span.original_row],
                "original_source": result.sources[span.original_row],
                "original_start": span.original_start,
            }
            removed_spans.append(id=item.id, source=item.source, start=span.start, end=span.end, **original, kind=span.kind)
    return remove_spans(item.content, spans)


def duplicate_table(result: DedupResult) -> pa.Table:
    """Build a table with one row per duplicate.

    A row holds its id and source, those of the kept record, the kind and the similarity.
    """
    return pa.table(
        {
            "id": pa.array([result.ids[duplicate.row] for duplicate in result.duplicates], pa.string()),
            "source": pa.array([result.sources[duplicate.row] for duplicate in result.duplicates], pa.string()),
            "duplicate_of": pa.array([result.ids[duplicate.kept_row] for duplicate in result.duplicates], pa.string()),
            "duplicate_of_source": pa.array([result.sources[duplicate.kept_row] for duplicate in result.duplicates], pa.string()),
            "kind": pa.array([duplicate.kind for duplicate in result.duplicates], pa.string()),
            "similarity": pa.array([duplicate.similarity for duplicate in result.duplicates], pa.float64()),
        }
    )


if __name__ == "__main__":
    runner.main("dedupe", "corpora", run_stage, __doc__)
