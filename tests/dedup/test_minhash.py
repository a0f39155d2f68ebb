import itertools
import random

import numpy as np
import pytest

from provenlm.core.ngram_hashing import splitmix64_array
from provenlm.dedup import minhash
from provenlm.dedup.minhash import MinHasher, candidate_pairs, hashes_per_band_for


def shingle_set(start: int, stop: int) -> np.ndarray:
    return np.sort(splitmix64_array(np.arange(start, stop, dtype=np.uint64)))


def sorted_pairs(band_hashes: list[list[int]], ranks: list[int] | None = None) -> set[tuple[int, int]]:
    pairs = candidate_pairs(np.array(band_hashes, np.uint64), np.array(ranks or range(len(band_hashes))))
    return set(map(tuple, pairs.tolist()))


def test_equal_sets_have_equal_band_hashes_and_disjoint_sets_share_none():
    hasher = MinHasher(0.7)
    first, same, disjoint = (hasher.band_hashes(shingle_set(*span)) for span in ((0, 3000), (0, 3000), (5000, 8000)))
    assert (first == same).all()
    assert not np.isin(first, disjoint).any()


def test_the_fraction_of_equal_minima_estimates_jaccard_similarity():
    hasher = MinHasher(0.0001)  # one hash per band: a band hash is a minimum
    assert hasher.hashes_per_band == 1
    left, right = hasher.band_hashes(shingle_set(0, 3000)), hasher.band_hashes(shingle_set(1000, 4000))
    assert (left == right).mean() == pytest.approx(2000 / 4000, abs=0.15)  # three standard deviations of 128 draws are 0.13


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 2), (0.7, 4), (0.8, 4), (0.9, 8), (1.0, 16), (0.01, 1)])
def test_hashes_per_band_is_the_largest_that_finds_pairs_at_the_threshold(threshold, expected):
    assert hashes_per_band_for(threshold) == expected


def test_candidates_are_the_pairs_that_share_a_hash_of_the_same_band():
    random_ = random.Random(3)
    keys = [[random_.randrange(6) for _ in range(3)] for _ in range(30)]
    expected = {
        (i, j) for i, j in itertools.combinations(range(30), 2) if any(a == b for a, b in zip(keys[i], keys[j], strict=True))
    }
    assert sorted_pairs(keys) == expected


def test_no_rows_and_one_row_have_no_candidates():
    assert candidate_pairs(np.zeros((0, 4), np.uint64), np.zeros(0, np.int64)).shape == (0, 2)
    assert sorted_pairs([[1, 2]]) == set()


def test_a_large_bucket_is_paired_with_its_best_and_its_neighbors_only(monkeypatch):
    monkeypatch.setattr(minhash, "MAX_BUCKET", 3)
    assert sorted_pairs([[7]] * 5, [4, 3, 0, 1, 2]) == {(0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (1, 4), (0, 1)}


def test_synthetic_recall_is_high_and_drops_with_too_narrow_bands(monkeypatch):
    generator = np.random.default_rng(2)
    sets = {row: np.unique(generator.integers(0, 1 << 63, 200, dtype=np.uint64)) for row in range(300)}
    assert sum(minhash.detect_synthetic_duplicates(sets, 0.7)) >= 0.99 * 300
    monkeypatch.setattr(minhash, "hashes_per_band_for", lambda threshold: 16)
    assert sum(minhash.detect_synthetic_duplicates(sets, 0.7)) < 0.5 * 300
