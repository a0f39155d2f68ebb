"""Records in; out, which of them to keep, which record every other one repeats, and the cluster that each belongs to.

Exact twins are equal in their canonical bytes. Near twins are found by MinHash (provenlm.corpus.minhash; deduplication of training
text: Lee et al., arXiv 2107.06499) and then verified by the exact Jaccard similarity of their shingle sets. A record goes only if it
is verified against one that stays; those that stay are chosen greedily, by score, then length, then id.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core.progress import progress
from provenlm.core.record import Record
from provenlm.corpus.hashing import Hashes
from provenlm.corpus.minhash import Sketcher, candidates

Rows = NDArray[np.int64]
Read = Callable[[], Iterable[Record]]
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
    twins among the firsts, with their `similarities`; `cluster` of a row: the smallest id of all records that twins connect it with.
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
    keys: list[Hashes] = field(default_factory=list)  # of each sketched group

    def ranks(self) -> Rows:
        """0 for the row to prefer over all others, and so on."""
        rows = range(len(self.ids))
        order = sorted(rows, key=lambda row: (-self.scores[row], -self.sizes[row], self.ids[row], self.sources[row], row))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks


def find(read: Read, canonical: Callable[[Record], bytes], shingles: Shingles, threshold: float) -> Found:
    """The twins among the records that `read` gives, the same at each of its two calls, each with a fact `score`.

    `shingles` must depend on `canonical` alone. A `threshold` above 1 asks for exact twins only.
    """
    seen = survey(read(), canonical, shingles, Sketcher(threshold) if threshold <= 1 else None)
    ranks, groups = seen.ranks(), np.array(seen.groups, np.int64)
    best = np.full(len(seen.firsts), -1, np.int64)
    for row in np.argsort(-ranks):  # the best comes last and stays
        best[groups[row]] = row
    likely = np.zeros((0, 2), np.int64)
    if seen.sketched:
        sketched = np.array(seen.sketched, np.int64)
        likely = sketched[candidates(np.stack(seen.keys), ranks[best[sketched]])]
    firsts = np.array(seen.firsts, np.int64)
    sets = sets_of(read(), shingles, firsts[np.unique(likely)]) if len(likely) else {}
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


def survey(
    records: Iterable[Record], canonical: Callable[[Record], bytes], shingles: Shingles, sketcher: Sketcher | None
) -> Survey:
    """Group exact twins and sketch one record of each group. Without a `sketcher` nothing is sketched."""
    seen = Survey()
    group_of: dict[bytes, int] = {}
    for row, record in enumerate(records):
        seen.ids.append(record.id)
        seen.sources.append(record.source)
        seen.scores.append(float(record.facts["score"]))
        seen.sizes.append(len(record.body))
        group = group_of.setdefault(hashlib.blake2b(canonical(record), digest_size=16).digest(), len(group_of))
        seen.groups.append(group)
        if group == len(seen.firsts):
            seen.firsts.append(row)
            if sketcher is not None and len(found := shingles(record)):
                seen.sketched.append(group)
                seen.keys.append(sketcher.keys(np.unique(found)))
    return seen


def sets_of(records: Iterable[Record], shingles: Shingles, rows: Rows) -> dict[int, Hashes]:
    """The shingle sets, sorted, of the records in `rows`."""
    wanted = set(rows.tolist())
    return {row: np.unique(shingles(record)) for row, record in enumerate(records) if row in wanted}


def compare(pairs: Rows, sets: dict[int, Hashes]) -> NDArray[np.float64]:
    """The Jaccard similarity of each pair of rows, (n, 2) to (n,)."""
    found = np.empty(len(pairs))
    with progress("compare candidates", "pairs", len(pairs)) as bar:
        for place, (one, other) in enumerate(pairs.tolist()):
            found[place] = jaccard(sets[one], sets[other])
            bar.advance()
    return found


def jaccard(one: Hashes, other: Hashes) -> float:
    """Shared elements over all elements of two sorted sets; 0 if both are empty."""
    small, large = (one, other) if len(one) <= len(other) else (other, one)
    if not len(small):
        return 0.0
    places = np.minimum(np.searchsorted(large, small), len(large) - 1)
    shared = int((large[places] == small).sum())
    return shared / (len(one) + len(other) - shared)


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
    """For each row the smallest id of the connected component that its group belongs to.

    Records without twins keep their cluster whatever else comes or goes; one is renamed when a twin with a smaller id joins it.
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
    smallest: dict[int, str] = {}
    for identity, of in zip(ids, roots, strict=True):
        smallest[of] = min(identity, smallest.get(of, identity))
    return [smallest[of] for of in roots]
