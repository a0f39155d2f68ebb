"""Filtered records in; out, each one once, with the cluster it belongs to, and a table of the others: which repeats which."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import files, plugin, rng
from provenlm.core import record as records
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress, progress
from provenlm.core.record import Record
from provenlm.corpus import dedupe_figures as figures
from provenlm.corpus import duplicates, oracle
from provenlm.corpus.duplicates import Found
from stages import stage

PIVOTS = 100  # records that are compared with all others to measure what the search misses


def body(run: stage.Run) -> None:
    face = plugin.load("domains", run.row["domain"], "dedupe", plugin.Deduping)
    settings: Any = run.settings("dedupe", face.settings)
    source = run.reads(run.layout.corpus(run.subject, "filtered"))
    target = run.writes(run.layout.corpus(run.subject, "deduped"))
    count, threshold, shingles = records.count(source), face.threshold(settings), face.shingles(settings)
    if count == 0:
        raise UserError(f"{source.relative_to(run.layout.root).as_posix()}: no records; loosen corpora.{run.subject}.filter")
    with files.new_folder(target) as folder, progress(f"dedupe {run.subject}", "records read", 5 * count) as bar:

        def read() -> Iterator[Record]:
            return watched(records.read(source), bar)

        found = duplicates.find(read, face.canonical, shingles, threshold)
        sizes: list[int] = []
        records.write(kept(read(), found, sizes), folder)
        pq.write_table(twins(found), folder / "twins.parquet", compression="zstd")
        figures.record(run.audit, found, sizes)
        if threshold <= 1:
            pivots = sorted(found.firsts.tolist(), key=lambda row: rng.share_of(found.ids[row], "oracle"))[:PIVOTS]
            sets = duplicates.sets_of(read(), shingles, np.array(pivots))
            firsts = set(found.firsts.tolist())
            members = ((row, np.unique(shingles(item))) for row, item in enumerate(read()) if row in firsts)
            figures.oracle(run.audit, found, pivots, oracle.similar(members, sets, threshold))
        bar.advance(total=bar.done)


def watched(source: Iterator[Record], bar: Progress) -> Iterator[Record]:
    for item in source:
        bar.advance()
        yield item


def kept(source: Iterator[Record], found: Found, sizes: list[int]) -> Iterator[Record]:
    """The records to keep, each with its cluster as a fact; `sizes` receives the bytes of all."""
    for row, item in enumerate(source):
        sizes.append(len(item.body))
        if found.kept[row]:
            yield item.with_facts(cluster=found.cluster[row])


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
    stage.main("dedupe", "corpora", body, __doc__)
