"""Find exact and near-duplicate records and choose which of them to keep.

Exact duplicates have equal normalized bytes. Near-duplicates are found by MinHash (provenlm.dedup.minhash; for training data: Lee et
al., arXiv 2107.06499) and verified by the exact Jaccard similarity of their n-gram sets. A record is removed only if it was verified
against a kept one. Kept records are chosen greedily by score, then length, then id, where the length of a text is that of its clean form:
Unicode form C without soft hyphens, zero-width spaces and signs of a wrong character set; of equal lengths the cleanest wins. Clusters, which decide the split, may join more
records: those of which one contains much of the other (provenlm.dedup.containment).

Memory holds a few hundred bytes per record, including band hashes, and a bounded part of the n-gram sets (provenlm.dedup.jaccard).
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.executors.base import RecordMap, RecordSource
from provenlm.core.interfaces import NO_CONTAINMENT
from provenlm.core.ngram_hashing import Hashes, sorted_unique
from provenlm.core.records import Record
from provenlm.dedup.containment import ContainmentPairs, find_contained
from provenlm.dedup.jaccard import RowArray, SetStore, jaccard_similarities
from provenlm.dedup.minhash import MinHasher, candidate_pairs

NormalizeFn = Callable[[Record], bytes]
NgramHashFn = Callable[[Record], Hashes]
# soft hyphen, zero-width space, word joiner, byte order mark, replacement character, C1 controls
UNCLEAN_CHARS = re.compile("[\u00ad\u200b\u2060\ufeff\ufffd\u0080-\u009f]")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Name the kept record that a removed record duplicates.

    similarity: 1 if exact, else Jaccard.
    """

    row: int
    kept_row: int
    kind: Literal["exact", "near"]
    similarity: float


@dataclass(frozen=True)
class DedupResult:
    """Hold the duplicates of a corpus.

    A row is the position of a record in reading order.

    representatives: first row of each group of exact duplicates; representative_kept_mask: whether one of the group is kept.
    pairs: (n, 2), verified near-duplicates among the representatives, with their `similarities`.
    contained: pairs of representatives of which one contains much of the other.
    cluster_ids: one for each row, see `connected_components`.
    """

    ids: Sequence[str]
    sources: Sequence[str]
    kept_mask: NDArray[np.bool_]
    cluster_ids: Sequence[str]
    duplicates: Sequence[Duplicate]
    representatives: RowArray
    representative_kept_mask: NDArray[np.bool_]
    num_candidates: int
    pairs: RowArray
    similarities: NDArray[np.float64]
    contained: ContainmentPairs


@dataclass
class SignaturePass:
    """Hold what the first pass stores of each record and group of duplicates."""

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    clean_sizes: list[int] = field(default_factory=list)
    group_ids: list[int] = field(default_factory=list)  # of each row
    representatives: list[int] = field(default_factory=list)  # of each group
    hashed_groups: list[int] = field(default_factory=list)  # groups that have n-grams
    band_hashes: bytearray = field(default_factory=bytearray)  # of each hashed group

    def ranks(self) -> RowArray:
        """Rank the rows by preference, 0 first: higher score, longer, cleaner, smaller id."""
        keys = zip(self.scores, self.clean_sizes, self.sizes, self.ids, self.sources, strict=True)
        preferences = [(-score, -clean_size, size, *names) for score, clean_size, size, *names in keys]
        order = sorted(range(len(preferences)), key=lambda row: (preferences[row], row))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks


def find_duplicates(
    corpus: RecordSource,
    normalize: NormalizeFn,
    ngram_hashes: NgramHashFn,
    threshold: float,
    containment_threshold: float = NO_CONTAINMENT,
) -> DedupResult:
    """Find the duplicates among the records of `corpus`.

    The metadata of each record must contain `score`.

    `ngram_hashes` must depend only on the result of `normalize`. With a `threshold` above 1 only exact duplicates are searched. Records
    with a containment of at least `containment_threshold` are in one cluster.
    """
    signatures = collect_signatures(corpus, make_signature_step(normalize, ngram_hashes, threshold))
    ranks, group_ids = signatures.ranks(), np.array(signatures.group_ids, np.int64)
    best_rows = np.full(len(signatures.representatives), -1, np.int64)
    for row in np.argsort(-ranks):  # the best comes last and stays
        best_rows[group_ids[row]] = row
    likely_pairs = np.zeros((0, 2), np.int64)
    if signatures.hashed_groups:
        hashed_groups = np.array(signatures.hashed_groups, np.int64)
        band_hashes = np.frombuffer(signatures.band_hashes, np.uint64).reshape(len(hashed_groups), -1)
        likely_pairs = hashed_groups[candidate_pairs(band_hashes, ranks[best_rows[hashed_groups]])]
    representatives = np.array(signatures.representatives, np.int64)
    similarity = np.zeros(0)
    if len(likely_pairs):
        needed_rows = set(representatives[np.unique(likely_pairs)].tolist())
        with SetStore(
            (row, sorted_unique(ngram_hashes(item))) for row, item in enumerate(corpus.read()) if row in needed_rows
        ) as sets:
            similarity = jaccard_similarities(representatives[likely_pairs], sets)
    verified = similarity >= threshold
    pairs, similarity = likely_pairs[verified], similarity[verified]
    contained = ContainmentPairs(np.zeros((0, 2), np.int64), np.zeros(0))
    if containment_threshold <= 1:
        rows = set(representatives.tolist())
        with SetStore((row, sorted_unique(ngram_hashes(item))) for row, item in enumerate(corpus.read()) if row in rows) as sets:
            contained = find_contained(sets, representatives.tolist(), containment_threshold)
    matches = select_kept(pairs, similarity, ranks[best_rows])
    duplicates = [
        Duplicate(row, int(best_rows[target]), "exact" if target == group else "near", 1.0 if target == group else match_similarity)
        for row, group in enumerate(signatures.group_ids)
        for target, match_similarity in [matches[group]]
        if best_rows[target] != row
    ]
    kept_mask = np.ones(len(group_ids), bool)
    kept_mask[[duplicate.row for duplicate in duplicates]] = False
    representative_kept_mask = np.array([target == group for group, (target, _) in enumerate(matches)], bool)
    joined_pairs = np.concatenate([pairs, group_ids[contained.pairs]])
    cluster_ids = connected_components(signatures.ids, group_ids, joined_pairs)
    return DedupResult(
        signatures.ids,
        signatures.sources,
        kept_mask,
        cluster_ids,
        duplicates,
        representatives,
        representative_kept_mask,
        len(likely_pairs),
        representatives[pairs],
        similarity,
        contained,
    )


def make_signature_step(normalize: NormalizeFn, ngram_hashes: NgramHashFn, threshold: float) -> RecordMap[tuple[bytes, bytes]]:
    """Build the step that computes content digest and band hashes of a record.

    Band hashes are empty for records without n-grams and if `threshold` is above 1.
    """
    hasher = MinHasher(threshold) if threshold <= 1 else None

    def compute_signature(record: Record) -> tuple[bytes, bytes]:
        band_hashes = b""
        if hasher is not None and len(hashes := ngram_hashes(record)):
            band_hashes = hasher.band_hashes(hashes).tobytes()
        return hashlib.blake2b(normalize(record), digest_size=16).digest(), band_hashes

    return RecordMap(
        lambda batch: [compute_signature(record) for record in batch], b"".join, lambda packed: (packed[:16], packed[16:])
    )


def collect_signatures(corpus: RecordSource, signature_step: RecordMap[tuple[bytes, bytes]]) -> SignaturePass:
    """Group exact duplicates and collect band hashes.

    One record of each group is hashed: the first.
    """
    signatures = SignaturePass()
    group_by_digest: dict[bytes, int] = {}
    for row, (record, (digest, band_hashes)) in enumerate(corpus.map(signature_step)):
        signatures.ids.append(record.id)
        signatures.sources.append(record.source)
        signatures.scores.append(float(record.metadata["score"]))
        signatures.sizes.append(len(record.content))
        signatures.clean_sizes.append(clean_size(record))
        group = group_by_digest.setdefault(digest, len(group_by_digest))
        signatures.group_ids.append(group)
        if group == len(signatures.representatives):
            signatures.representatives.append(row)
            if band_hashes:
                signatures.hashed_groups.append(group)
                signatures.band_hashes += band_hashes
    return signatures


def clean_size(record: Record) -> int:
    """Return the bytes of a text in Unicode form C without UNCLEAN_CHARS.

    For other records it is the size of the content.
    """
    if record.content.isascii() or not record.media_type.startswith("text/"):
        return len(record.content)
    text = UNCLEAN_CHARS.sub("", record.content.decode("utf-8", "replace"))
    return len(unicodedata.normalize("NFC", text).encode())


def select_kept(pairs: RowArray, similarities: NDArray[np.float64], ranks: RowArray) -> list[tuple[int, float]]:
    """Choose the kept group that each group duplicates.

    In order of `ranks` it is the most similar kept group that the group is paired with, or the group itself if there is none.
    """
    neighbors: dict[int, list[tuple[int, float]]] = {}
    for (first, second), similarity in zip(pairs.tolist(), similarities.tolist(), strict=True):
        neighbors.setdefault(first, []).append((second, similarity))
        neighbors.setdefault(second, []).append((first, similarity))
    matches = [(group, 1.0) for group in range(len(ranks))]
    for group in sorted(neighbors, key=lambda group: int(ranks[group])):
        kept_neighbors = [
            (target, target_similarity)
            for target, target_similarity in neighbors[group]
            if ranks[target] < ranks[group] and matches[target][0] == target
        ]
        if kept_neighbors:
            matches[group] = max(kept_neighbors, key=lambda pair: (pair[1], -int(ranks[pair[0]])))
    return matches


def connected_components(ids: Sequence[str], group_ids: RowArray, pairs: RowArray) -> list[str]:
    """Name the connected component of each row.

    The name is the record id in the component whose split hash is lowest.

    The tokenize stage holds out a cluster if `rng.hash_to_unit(name, SPLIT_SALT)` is below val_fraction, so a cluster is held out if
    any record in it would be on its own. Therefore a new record never moves a held-out record into training.
    """
    parent = list(range(int(group_ids.max()) + 1)) if len(group_ids) else []

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for first, second in pairs.tolist():
        parent[root(first)] = root(second)
    roots = [root(group) for group in group_ids.tolist()]
    members: dict[int, set[str]] = {}
    for record_id, component in zip(ids, roots, strict=True):
        members.setdefault(component, set()).add(record_id)
    cluster_ids = {
        component: min(component_ids, key=lambda record_id: (rng.hash_to_unit(record_id, rng.SPLIT_SALT), record_id))
        for component, component_ids in members.items()
    }
    return [cluster_ids[component] for component in roots]
