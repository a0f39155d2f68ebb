"""Filtered records in; out, each one once, with the cluster it belongs to, and a table of the others: which repeats which."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import files, plugin, rng
from provenlm.core import record as records
from provenlm.core.audit import Recorder, Series, Table
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress, progress
from provenlm.core.record import Record
from provenlm.corpus import duplicates, oracle
from provenlm.corpus.duplicates import Found
from stages import stage

PIVOTS = 100  # records that are compared with all others to measure what the search misses
SHOWN = 20  # near twins shown


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
        record_figures(run.audit, found, sizes)
        if threshold <= 1:
            pivots = sorted(found.firsts.tolist(), key=lambda row: rng.share_of(found.ids[row], "oracle"))[:PIVOTS]
            sets = duplicates.sets_of(read(), shingles, np.array(pivots))
            firsts = set(found.firsts.tolist())
            members = ((row, np.unique(shingles(item))) for row, item in enumerate(read()) if row in firsts)
            record_oracle(run.audit, found, pivots, oracle.similar(members, sets, threshold))
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


def record_figures(audit: Recorder, found: Found, sizes: list[int]) -> None:
    kinds = Counter(twin.kind for twin in found.twins)
    unique = int(found.kept.sum())
    members = Counter(found.cluster)
    audit.counted("records.in", len(found.ids), "records", "filtered records that were compared")
    audit.counted("records.unique", unique, "records", "records that repeat none that is kept")
    audit.counted("twins.exact", kinds["exact"], "records", "records equal to a kept one in their canonical form")
    audit.counted("twins.near", kinds["near"], "records", "records whose similarity to a kept one was verified")
    balance = len(found.ids) - unique - len(found.twins)
    audit.counted("balance", balance, "records", "records in, less unique, less twins: 0 if none was lost")
    audit.counted("bytes.in", sum(sizes), "bytes", "bodies of the filtered records")
    audit.counted("bytes.unique", int(np.array(sizes)[found.kept].sum()), "bytes", "bodies of the unique records")
    audit.counted("clusters", len(members), "clusters", "sets of records connected by twins, single records included")
    audit.counted("clusters.largest", max(members.values()), "records", "records in the largest cluster")
    audit.counted("pairs.candidates", found.candidates, "pairs", "pairs of records that share a band of their signatures")
    audit.counted("pairs.verified", len(found.pairs), "pairs", "candidates whose exact similarity reaches the threshold")
    audit.series.append(similarities(found))
    audit.tables.append(examples(found))


def record_oracle(audit: Recorder, found: Found, pivots: list[int], truth: dict[tuple[int, int], float]) -> None:
    """Recall and precision of the removal, on the pairs that touch one of `pivots`; words where there is nothing to count."""
    stays = dict(zip(found.firsts.tolist(), found.stays.tolist(), strict=True))
    left = sum(stays[one] and stays[other] for one, other in truth)
    removed = [row for row in pivots if not stays[row]]
    repeating = {row for pair in truth for row, other in (pair, pair[::-1]) if stays[other]}
    with audit.under("oracle") as side:
        side.counted("records", len(pivots), "records", "records, chosen by hash, that were compared with every other one")
        side.counted("pairs", len(truth), "pairs", "pairs with one of these whose exact similarity reaches the threshold")
        side.counted("pairs_left", left, "pairs", "such pairs of which both records were kept")
        recall = (len(truth) - left) / len(truth) if truth else "no pairs"
        side.measured("recall", recall, "share", "share of such pairs of which at most one record was kept")
        precision = sum(row in repeating for row in removed) / len(removed) if removed else "none removed"
        side.measured("precision", precision, "share", "share of the removed ones of these records that are similar to a kept one")


def similarities(found: Found) -> Series:
    edges = np.linspace(0, 1, 21)
    counts = np.histogram([twin.similarity for twin in found.twins], edges)[0].tolist()
    meaning = "records removed, by similarity to the record that is kept"
    return Series("similarities", "bars", meaning, "Jaccard similarity", "records", edges.round(3).tolist(), {"removed": counts})


def examples(found: Found) -> Table:
    near = sorted((twin for twin in found.twins if twin.kind == "near"), key=lambda twin: (twin.similarity, twin.row))[:SHOWN]
    rows = [(found.sources[twin.row], found.sources[twin.of], round(twin.similarity, 4)) for twin in near]
    return Table("near_twins", f"the {SHOWN} least similar near twins", ("removed", "kept", "similarity"), rows)


if __name__ == "__main__":
    stage.main("dedupe", "corpora", body, __doc__)
