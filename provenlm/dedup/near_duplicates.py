"""Records in; out, which of them to keep, which record every other one repeats, and the cluster that each belongs to.

Exact twins are equal in their canonical bytes. Near twins are found by MinHash (provenlm.dedup.minhash; deduplication of training
text: Lee et al., arXiv 2107.06499) and then verified by the exact Jaccard similarity of their shingle sets. A record goes only if it
is verified against one that stays; those that stay are chosen greedily, by score, then length, then id.

In memory are a few hundred bytes a record, band keys among them, and a bounded share of the shingles (provenlm.dedup.jaccard).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.executors.base import Corpus, Work
from provenlm.core.ngram_hashing import Hashes, distinct
from provenlm.core.records import Record
from provenlm.dedup.jaccard import Rows, Sets, compare
from provenlm.dedup.minhash import Sketcher, candidates

Canonical = Callable[[Record], bytes]
Shingles = Callable[[Record], Hashes]


@dataclass(frozen=True, slots=True)
class Twin:
    """The record in `row` repeats the one in row `of`, which is kept. `similarity`: 1 for an exact twin, else Jaccard."""

    row: int
    of: int
    kind: Literal["exact", "near"]
    similarity: float


@dataclass(frozen=True)
class Found:
    """What is repeated in a corpus. Rows are places of records in the order of reading.

    `firsts`: the first row of each set of exact twins, and whether one of the set `stays`; `pairs`, (n, 2): verified near
    twins among the firsts, with their `similarities`; `cluster` of a row: see `clusters`.
    """

    ids: Sequence[str]
    sources: Sequence[str]
    kept: NDArray[np.bool_]
    cluster: Sequence[str]
    twins: Sequence[Twin]
    firsts: Rows
    stays: NDArray[np.bool_]
    candidates: int
    pairs: Rows
    similarities: NDArray[np.float64]


@dataclass
class Survey:
    """What the first reading leaves in memory of each record, and of each group of exact twins."""

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # of each row
    firsts: list[int] = field(default_factory=list)  # of each group
    sketched: list[int] = field(default_factory=list)  # groups that have shingles
    keys: bytearray = field(default_factory=bytearray)  # of each sketched group

    def ranks(self) -> Rows:
        """0 for the row to prefer over all others, and so on."""
        rows = range(len(self.ids))
        order = sorted(rows, key=lambda row: (-self.scores[row], -self.sizes[row], self.ids[row], self.sources[row], row))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks


def find(corpus: Corpus, canonical: Canonical, shingles: Shingles, threshold: float) -> Found:
    """The twins among the records of `corpus`, each with a fact `score`.

    `shingles` must depend on `canonical` alone. A `threshold` above 1 asks for exact twins only.
    """
    seen = survey(corpus, sketching(canonical, shingles, threshold))
    ranks, groups = seen.ranks(), np.array(seen.groups, np.int64)
    best = np.full(len(seen.firsts), -1, np.int64)
    for row in np.argsort(-ranks):  # the best comes last and stays
        best[groups[row]] = row
    likely = np.zeros((0, 2), np.int64)
    if seen.sketched:
        sketched = np.array(seen.sketched, np.int64)
        keys = np.frombuffer(seen.keys, np.uint64).reshape(len(sketched), -1)
        likely = sketched[candidates(keys, ranks[best[sketched]])]
    firsts = np.array(seen.firsts, np.int64)
    similarity = np.zeros(0)
    if len(likely):
        wanted = set(firsts[np.unique(likely)].tolist())
        with Sets((row, distinct(shingles(item))) for row, item in enumerate(corpus.read()) if row in wanted) as sets:
            similarity = compare(firsts[likely], sets)
    verified = similarity >= threshold
    pairs, similarity = likely[verified], similarity[verified]
    chosen = choose(pairs, similarity, ranks[best])
    twins = [
        Twin(row, int(best[of]), "exact" if of == group else "near", 1.0 if of == group else how)
        for row, group in enumerate(seen.groups)
        for of, how in [chosen[group]]
        if best[of] != row
    ]
    kept = np.ones(len(groups), bool)
    kept[[twin.row for twin in twins]] = False
    stays = np.array([of == group for group, (of, _) in enumerate(chosen)], bool)
    cluster = clusters(seen.ids, groups, pairs)
    return Found(seen.ids, seen.sources, kept, cluster, twins, firsts, stays, len(likely), firsts[pairs], similarity)


def sketching(canonical: Canonical, shingles: Shingles, threshold: float) -> Work[tuple[bytes, bytes]]:
    """For each record the digest of its canonical form and its band keys; none where it has no shingles or they are not asked for."""
    sketcher = Sketcher(threshold) if threshold <= 1 else None

    def sketch(record: Record) -> tuple[bytes, bytes]:
        keys = b""
        if sketcher is not None and len(found := shingles(record)):
            keys = sketcher.keys(found).tobytes()
        return hashlib.blake2b(canonical(record), digest_size=16).digest(), keys

    return Work(lambda batch: [sketch(record) for record in batch], b"".join, lambda packed: (packed[:16], packed[16:]))


def survey(corpus: Corpus, sketching: Work[tuple[bytes, bytes]]) -> Survey:
    """Group exact twins; keep the keys of the first of each group."""
    seen = Survey()
    group_of: dict[bytes, int] = {}
    for row, (record, (digest, keys)) in enumerate(corpus.map(sketching)):
        seen.ids.append(record.id)
        seen.sources.append(record.source)
        seen.scores.append(float(record.facts["score"]))
        seen.sizes.append(len(record.body))
        group = group_of.setdefault(digest, len(group_of))
        seen.groups.append(group)
        if group == len(seen.firsts):
            seen.firsts.append(row)
            if keys:
                seen.sketched.append(group)
                seen.keys += keys
    return seen


def choose(pairs: Rows, similarities: NDArray[np.float64], ranks: Rows) -> list[tuple[int, float]]:
    """For each group, in order of `ranks`, the most similar of the kept groups it is paired with; itself if there is none."""
    near: dict[int, list[tuple[int, float]]] = {}
    for (one, other), similarity in zip(pairs.tolist(), similarities.tolist(), strict=True):
        near.setdefault(one, []).append((other, similarity))
        near.setdefault(other, []).append((one, similarity))
    chosen = [(group, 1.0) for group in range(len(ranks))]
    for group in sorted(near, key=lambda group: int(ranks[group])):
        before = [(of, how) for of, how in near[group] if ranks[of] < ranks[group] and chosen[of][0] == of]
        if before:
            chosen[group] = max(before, key=lambda pair: (pair[1], -int(ranks[pair[0]])))
    return chosen


def clusters(ids: Sequence[str], groups: Rows, pairs: Rows) -> list[str]:
    """For each row the name of the connected component that its group belongs to: the id, of all in it, that is held out first.

    tokenize holds out a cluster if `rng.share_of(name, SPLIT)` is below a share, so a cluster is held out when any record in it
    would be by itself. Therefore no record that arrives, and no twins that it connects, ever move a held-out record into training.
    """
    parent = list(range(int(groups.max()) + 1)) if len(groups) else []

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for one, other in pairs.tolist():
        parent[root(one)] = root(other)
    roots = [root(group) for group in groups.tolist()]
    members: dict[int, set[str]] = {}
    for identity, of in zip(ids, roots, strict=True):
        members.setdefault(of, set()).add(identity)
    names = {of: min(those, key=lambda one: (rng.share_of(one, rng.SPLIT), one)) for of, those in members.items()}
    return [names[of] for of in roots]
