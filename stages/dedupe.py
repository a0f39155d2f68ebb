"""Filtered records in; out, each one once, with the cluster it belongs to, and a table of the others: which repeats which."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provenlm.core import interfaces, io, ngram_hashing, records, registry, rng
from provenlm.core.errors import ProvenlmError
from provenlm.core.executors.base import RecordMap, RecordSource
from provenlm.core.interfaces import ParagraphDedupSpec
from provenlm.core.progress import ProgressReporter, progress_bar
from provenlm.core.records import Record
from provenlm.dedup import brute_force, minhash, near_duplicates
from provenlm.dedup import metrics as figures
from provenlm.dedup.metrics import DedupTally
from provenlm.dedup.near_duplicates import DedupResult
from provenlm.dedup.paragraph_dedup import ParagraphIndex
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
        "of": TEXT,
        "of_source": TEXT,
        "of_start": INTEGER,
        "kind": TEXT,
    }
)
NUM_PIVOTS = 100  # records that are compared with all others to measure what the search misses


def run_stage(context: runner.StageContext) -> None:
    spec = registry.load_domain(context.entry["domain"], "dedupe", interfaces.DedupeSpec)
    config: Any = context.parse_section("dedupe", spec.config_type)
    source = context.declare_input(context.paths.corpus_dir(context.subject, "filtered"))
    target = context.declare_output(context.paths.corpus_dir(context.subject, "deduped"))
    num_records, threshold, ngram_hashes = records.count_records(source), spec.jaccard_threshold(config), spec.ngram_hashes(config)
    paragraph_dedup = spec.paragraph_dedup(config)
    if num_records == 0:
        raise ProvenlmError(
            f"{source.relative_to(context.paths.root).as_posix()}: no records; loosen corpora.{context.subject}.filter"
        )
    with io.atomic_dir(target) as folder, progress_bar(f"dedupe {context.subject}", "records read", 6 * num_records) as bar:
        corpus = ProgressRecordSource(context.open_records(source), bar)
        result = near_duplicates.find_duplicates(corpus, spec.normalize, ngram_hashes, threshold)
        tally = DedupTally(
            paragraph_dedup.index_paragraphs(select_rows(corpus, result.kept_mask), paragraph_dedup)
            if paragraph_dedup
            else ParagraphIndex()
        )
        with ParquetAppender(folder / "blocks.parquet", REMOVED_SCHEMA) as removed_spans:
            records.write_records(
                kept_records(select_rows(corpus, np.ones(num_records, bool)), result, paragraph_dedup, tally, removed_spans), folder
            )
        pq.write_table(duplicate_table(result), folder / "twins.parquet", compression="zstd")
        if paragraph_dedup:
            figures.record_paragraph_metrics(context.recorder, result, tally)
        figures.record_dedup_metrics(context.recorder, result, tally)
        if threshold <= 1:
            pivots = sorted(result.representatives.tolist(), key=lambda row: rng.hash_to_unit(result.ids[row], "oracle"))[
                :NUM_PIVOTS
            ]
            sets = {
                row: ngram_hashing.sorted_unique(ngram_hashes(item))
                for row, item in select_rows(corpus, np.isin(np.arange(num_records), pivots))
            }
            figures.record_synthetic_recall(
                context.recorder,
                minhash.detect_synthetic_duplicates({row: members for row, members in sets.items() if len(members)}, threshold),
            )
            is_representative = np.isin(np.arange(num_records), result.representatives)
            members = (
                (row, ngram_hashing.sorted_unique(ngram_hashes(item))) for row, item in select_rows(corpus, is_representative)
            )
            figures.record_recall(context.recorder, result, pivots, brute_force.brute_force_pairs(members, sets, threshold))
        bar.update(total=bar.num_done)


@dataclass(frozen=True)
class ProgressRecordSource:
    """A corpus of which each record that is read advances a bar."""

    source: RecordSource
    bar: ProgressReporter

    def read(self) -> Iterator[Record]:
        for item in self.source.read():
            self.bar.update()
            yield item

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]:
        for pair in self.source.map(record_map):
            self.bar.update()
            yield pair


def select_rows(corpus: RecordSource, mask: NDArray[np.bool_]) -> Iterator[tuple[int, Record]]:
    return ((row, item) for row, item in enumerate(corpus.read()) if mask[row])


def kept_records(
    source: Iterator[tuple[int, Record]],
    result: DedupResult,
    paragraph_dedup: ParagraphDedupSpec | None,
    tally: DedupTally,
    removed_spans: ParquetAppender,
) -> Iterator[Record]:
    """The records to keep, less the blocks to remove, each with its cluster as a fact."""
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
            if item.id in ids or (
                tally.sizes[-1] and not content.strip()
            ):  # nothing is left, or nothing that does not stand elsewhere
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
    """The body less the blocks to remove; each is written to `removed` with the place of its original, ids as they came in."""
    spans = list(paragraph_dedup.find_repeats(row, item, tally.index, paragraph_dedup))
    for span in spans:
        tally.add(span, item.content)
        if span.removed:
            original = {
                "of": result.ids[span.original_row],
                "of_source": result.sources[span.original_row],
                "of_start": span.original_start,
            }
            removed_spans.append(id=item.id, source=item.source, start=span.start, end=span.end, **original, kind=span.kind)
    return paragraph_dedup.remove_spans(item.content, spans)


def duplicate_table(result: DedupResult) -> pa.Table:
    """One row for each record that repeats another: its id and source, those of the record that stays, kind and similarity."""
    return pa.table(
        {
            "id": pa.array([result.ids[duplicate.row] for duplicate in result.duplicates], pa.string()),
            "source": pa.array([result.sources[duplicate.row] for duplicate in result.duplicates], pa.string()),
            "of": pa.array([result.ids[duplicate.kept_row] for duplicate in result.duplicates], pa.string()),
            "of_source": pa.array([result.sources[duplicate.kept_row] for duplicate in result.duplicates], pa.string()),
            "kind": pa.array([duplicate.kind for duplicate in result.duplicates], pa.string()),
            "similarity": pa.array([duplicate.similarity for duplicate in result.duplicates], pa.float64()),
        }
    )


if __name__ == "__main__":
    runner.main("dedupe", "corpora", run_stage, __doc__)
