"""Filtered records in; out, each one once, with the cluster it belongs to, and a table of the others: which repeats which."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provenlm.core import interfaces, io, ngram_hashing, records, registry, rng
from provenlm.core.errors import UserError
from provenlm.core.executors.base import Corpus, Work
from provenlm.core.interfaces import Blocks
from provenlm.core.progress import Progress, progress
from provenlm.core.records import Record
from provenlm.dedup import brute_force, minhash, near_duplicates, paragraph_dedup
from provenlm.dedup import metrics as figures
from provenlm.dedup.metrics import Left
from provenlm.dedup.near_duplicates import Found
from provenlm.dedup.paragraph_dedup import Repeats
from provenlm.filtering.parquet_writer import Rows
from stages import runner

WORDS, NUMBER = pa.string(), pa.int64()
T = TypeVar("T")
REMOVED = pa.schema(
    {
        "id": WORDS,
        "source": WORDS,
        "start": NUMBER,
        "end": NUMBER,
        "of": WORDS,
        "of_source": WORDS,
        "of_start": NUMBER,
        "kind": WORDS,
    }
)
PIVOTS = 100  # records that are compared with all others to measure what the search misses


def body(run: runner.Run) -> None:
    face = registry.load_domain(run.row["domain"], "dedupe", interfaces.Deduping)
    settings: Any = run.settings("dedupe", face.settings)
    source = run.reads(run.layout.corpus(run.subject, "filtered"))
    target = run.writes(run.layout.corpus(run.subject, "deduped"))
    count, threshold, shingles = records.count(source), face.threshold(settings), face.shingles(settings)
    asked = face.blocks(settings)
    if count == 0:
        raise UserError(f"{source.relative_to(run.layout.root).as_posix()}: no records; loosen corpora.{run.subject}.filter")
    with io.new_folder(target) as folder, progress(f"dedupe {run.subject}", "records read", 6 * count) as bar:
        corpus = Watched(run.records(source), bar)
        found = near_duplicates.find(corpus, face.canonical, shingles, threshold)
        left = Left(paragraph_dedup.survey(rows_of(corpus, found.kept), asked) if asked else Repeats())
        with Rows(folder / "blocks.parquet", REMOVED) as removed:
            records.write(kept(rows_of(corpus, np.ones(count, bool)), found, asked, left, removed), folder)
        pq.write_table(twins(found), folder / "twins.parquet", compression="zstd")
        if asked:
            figures.repeats(run.audit, found, left)
        figures.record(run.audit, found, left)
        if threshold <= 1:
            pivots = sorted(found.firsts.tolist(), key=lambda row: rng.share_of(found.ids[row], "oracle"))[:PIVOTS]
            sets = {row: ngram_hashing.distinct(shingles(item)) for row, item in rows_of(corpus, np.isin(np.arange(count), pivots))}
            figures.planted(run.audit, minhash.planted({row: members for row, members in sets.items() if len(members)}, threshold))
            firsts = np.isin(np.arange(count), found.firsts)
            members = ((row, ngram_hashing.distinct(shingles(item))) for row, item in rows_of(corpus, firsts))
            figures.oracle(run.audit, found, pivots, brute_force.similar(members, sets, threshold))
        bar.advance(total=bar.done)


@dataclass(frozen=True)
class Watched:
    """A corpus of which each record that is read advances a bar."""

    corpus: Corpus
    bar: Progress

    def read(self) -> Iterator[Record]:
        for item in self.corpus.read():
            self.bar.advance()
            yield item

    def map(self, work: Work[T]) -> Iterator[tuple[Record, T]]:
        for pair in self.corpus.map(work):
            self.bar.advance()
            yield pair


def rows_of(corpus: Corpus, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Record]]:
    return ((row, item) for row, item in enumerate(corpus.read()) if wanted[row])


def kept(source: Iterator[tuple[int, Record]], found: Found, asked: Blocks | None, left: Left, removed: Rows) -> Iterator[Record]:
    """The records to keep, less the blocks to remove, each with its cluster as a fact."""
    ids: set[str] = set()
    for row, item in source:
        left.sizes.append(len(item.body))
        if not found.kept[row]:
            continue
        body = less_repeats(row, item, found, asked, left, removed) if asked else item.body
        if body != item.body:
            left.gone += len(item.body) - len(body)
            item = item.with_body(body)
        if asked:
            if item.id in ids or (left.sizes[-1] and not body.strip()):  # nothing is left, or nothing that does not stand elsewhere
                left.emptied += 1
                left.gone += len(body)
                continue
            ids.add(item.id)
        left.written += 1
        left.bytes_written += len(item.body)
        left.words.add(item.body)
        yield item.with_facts(cluster=found.cluster[row])


def less_repeats(row: int, item: Record, found: Found, asked: Blocks, left: Left, removed: Rows) -> bytes:
    """The body less the blocks to remove; each is written to `removed` with the place of its original, ids as they came in."""
    those = list(paragraph_dedup.repeats(row, item, left.repeated, asked))
    for one in those:
        left.add(one, item.body)
        if one.removed:
            of = {"of": found.ids[one.of], "of_source": found.sources[one.of], "of_start": one.of_start}
            removed.put(id=item.id, source=item.source, start=one.start, end=one.end, **of, kind=one.kind)
    return paragraph_dedup.without(item.body, those)


def twins(found: Found) -> pa.Table:
    """One row for each record that repeats another: its id and source, those of the record that stays, kind and similarity."""
    return pa.table(
        {
            "id": pa.array([found.ids[twin.row] for twin in found.twins], pa.string()),
            "source": pa.array([found.sources[twin.row] for twin in found.twins], pa.string()),
            "of": pa.array([found.ids[twin.of] for twin in found.twins], pa.string()),
            "of_source": pa.array([found.sources[twin.of] for twin in found.twins], pa.string()),
            "kind": pa.array([twin.kind for twin in found.twins], pa.string()),
            "similarity": pa.array([twin.similarity for twin in found.twins], pa.float64()),
        }
    )


if __name__ == "__main__":
    runner.main("dedupe", "corpora", body, __doc__)
