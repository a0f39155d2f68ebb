"""What a search for duplicates found in; its figures, how it compares with an oracle, and a few of the twins out."""

from collections import Counter

import numpy as np

from provenlm.core.audit import Recorder, Series, Table
from provenlm.corpus.duplicates import Found

SHOWN = 20  # near twins shown


def record(audit: Recorder, found: Found, sizes: list[int]) -> None:
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
    audit.counted("bytes.removed", int(np.array(sizes)[~found.kept].sum()), "bytes", "bodies of the twins")
    audit.counted("clusters", len(members), "clusters", "sets of records connected by twins, single records included")
    audit.counted("clusters.largest", max(members.values()), "records", "records in the largest cluster")
    audit.counted("pairs.candidates", found.candidates, "pairs", "pairs of records that share a band of their signatures")
    audit.counted("pairs.verified", len(found.pairs), "pairs", "candidates whose exact similarity reaches the threshold")
    audit.series.append(similarities(found))
    audit.tables.append(examples(found))


def oracle(audit: Recorder, found: Found, pivots: list[int], truth: dict[tuple[int, int], float]) -> None:
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
