"""What a search for duplicates found in; its figures, how it compares with an oracle, and a few of the twins out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from provenlm.core.audit import Recorder, Series, Table
from provenlm.core.ngram_hashing import Hashes, distinct, words
from provenlm.dedup.near_duplicates import Found
from provenlm.dedup.paragraph_dedup import Repeat, Repeats

SHOWN = 20  # near twins and repeated blocks shown
TEXT = 100  # characters shown of a block


@dataclass
class Words:
    """How many words there are and how many different ones, by their hashes; those of the last records are not yet merged."""

    count: int = 0
    _seen: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    _fresh: list[Hashes] = field(default_factory=list)
    _held: int = 0

    def add(self, body: bytes) -> None:
        found = words(body)
        self.count += len(found)
        self._fresh.append(distinct(found))
        self._held += len(self._fresh[-1])
        if self._held > max(1 << 20, len(self._seen)):
            self._merge()

    def _merge(self) -> None:
        self._seen, self._fresh, self._held = distinct(np.concatenate([self._seen, *self._fresh])), [], 0

    @property
    def unique(self) -> int:
        self._merge()
        return len(self._seen)


@dataclass
class Costly:
    """A block that is repeated: how it begins, how often it stands again, and the bytes that this takes."""

    text: str
    times: int = 0
    size: int = 0


@dataclass
class Left:
    """What the reading that writes leaves behind, over all records: what came in, what went and why, what was written."""

    repeated: Repeats
    sizes: list[int] = field(default_factory=list)  # of each body that came in
    gone: int = 0  # bytes of blocks that were removed
    emptied: int = 0  # records of which nothing is left
    kinds: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # repeated blocks, their bytes, how many were removed
    originals: dict[tuple[int, int], Costly] = field(default_factory=dict)  # by row and start
    written: int = 0
    bytes_written: int = 0
    words: Words = field(default_factory=Words)

    def add(self, repeat: Repeat, body: bytes) -> None:
        size = repeat.end - repeat.start
        before = self.kinds.get(repeat.kind, (0, 0, 0))
        self.kinds[repeat.kind] = (before[0] + 1, before[1] + size, before[2] + repeat.removed)
        place = (repeat.of, repeat.of_start)
        if place not in self.originals:
            self.originals[place] = Costly(beginning(body[repeat.start : repeat.end]))
        self.originals[place].times += 1
        self.originals[place].size += size


def record(audit: Recorder, found: Found, left: Left) -> None:
    kinds = Counter(twin.kind for twin in found.twins)
    unique, sizes = int(found.kept.sum()) - left.emptied, np.array(left.sizes)
    members = Counter(found.cluster)
    audit.counted("records.in", len(found.ids), "records", "filtered records that were compared")
    audit.counted("records.unique", unique, "records", "records that repeat none that is kept")
    audit.counted("twins.exact", kinds["exact"], "records", "records equal to a kept one in their canonical form")
    audit.counted("twins.near", kinds["near"], "records", "records whose similarity to a kept one was verified")
    meaning = "records of which, less their repeated blocks, nothing is left, or nothing that does not stand elsewhere"
    audit.counted("emptied", left.emptied, "records", meaning)
    balance = len(found.ids) - left.written - len(found.twins) - left.emptied
    audit.counted("balance", balance, "records", "records in, less those written, less twins, less emptied: 0 if none was lost")
    removed = int(sizes[~found.kept].sum())
    audit.counted("bytes.in", int(sizes.sum()), "bytes", "bodies of the filtered records")
    audit.counted("bytes.unique", left.bytes_written, "bytes", "bodies of the unique records, as they were written")
    audit.counted("bytes.removed", removed + left.gone, "bytes", "bodies of the twins, and blocks that were removed")
    audit.counted("words", left.words.count, "words", "words of the unique records: runs without ASCII whitespace")
    audit.counted("words.unique", left.words.unique, "words", "different ones among them, by their 64-bit hashes")
    audit.counted("clusters", len(members), "clusters", "sets of records connected by twins, single records included")
    audit.counted("clusters.largest", max(members.values()), "records", "records in the largest cluster")
    audit.counted("pairs.candidates", found.candidates, "pairs", "pairs of records that share a band of their signatures")
    audit.counted("pairs.verified", len(found.pairs), "pairs", "candidates whose exact similarity reaches the threshold")
    audit.series.append(similarities(found))
    audit.tables.append(examples(found))


def repeats(audit: Recorder, found: Found, left: Left) -> None:
    """How many blocks stood before, how many of them were removed, and the ones that cost most."""
    with audit.under("blocks") as side:
        side.counted("in", left.repeated.blocks, "blocks", "blocks of the records that are no twins, from the least size on")
        for kind, meaning in (("inside", "that stood before in their own record"), ("across", "that stood in an earlier record")):
            count, size, removed = left.kinds.get(kind, (0, 0, 0))
            side.counted(kind, count, "blocks", f"blocks {meaning}")
            side.counted(f"{kind}.bytes", size, "bytes", f"bytes of blocks {meaning}")
            side.counted(f"{kind}.removed", removed, "blocks", f"removed blocks {meaning}")
    order = sorted(left.originals, key=lambda place: (-left.originals[place].size, place))[:SHOWN]
    rows = [
        (found.sources[row], start, one.times, one.size, one.text) for row, start in order for one in [left.originals[row, start]]
    ]
    columns = ("original in", "at byte", "repeats", "bytes of the repeats", "text")
    audit.tables.append(Table("repeated_blocks", f"the {SHOWN} repeated blocks that take most bytes", columns, rows))


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


def planted(audit: Recorder, found: Sequence[bool]) -> None:
    """Recall of the search on copies that were made to be as hard to find as the threshold allows; what it finds is verified."""
    with audit.under("planted") as side:
        side.counted("copies", len(found), "copies", "copies of records, changed until their similarity is just at the threshold")
        recall = sum(found) / len(found) if found else "no copies"
        side.measured("recall", recall, "share", "share of these copies that the search would compare with their original")


def beginning(block: bytes) -> str:
    return " ".join(block[: 4 * TEXT].decode("utf-8", "replace").split())[:TEXT]


def similarities(found: Found) -> Series:
    edges = np.linspace(0, 1, 21)
    counts = np.histogram([twin.similarity for twin in found.twins], edges)[0].tolist()
    meaning = "records removed, by similarity to the record that is kept"
    return Series("similarities", "bars", meaning, "Jaccard similarity", "records", edges.round(3).tolist(), {"removed": counts})


def examples(found: Found) -> Table:
    near = sorted((twin for twin in found.twins if twin.kind == "near"), key=lambda twin: (twin.similarity, twin.row))[:SHOWN]
    rows = [(found.sources[twin.row], found.sources[twin.of], round(twin.similarity, 4)) for twin in near]
    return Table("near_twins", f"the {SHOWN} least similar near twins", ("removed", "kept", "similarity"), rows)
