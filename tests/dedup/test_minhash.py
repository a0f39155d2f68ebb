import itertools
import random

import numpy as np
import pytest

from provenlm.core.ngram_hashing import mix
from provenlm.dedup import minhash
from provenlm.dedup.minhash import Sketcher, candidates, rows_for


def shingle_set(start: int, stop: int) -> np.ndarray:
    return np.sort(mix(np.arange(start, stop, dtype=np.uint64)))


def paired(keys: list[list[int]], ranks: list[int] | None = None) -> set[tuple[int, int]]:
    found = candidates(np.array(keys, np.uint64), np.array(ranks or range(len(keys))))
    return set(map(tuple, found.tolist()))


def test_equal_sets_have_equal_keys_and_disjoint_ones_share_none():
    sketcher = Sketcher(0.7)
    one, same, other = (sketcher.keys(shingle_set(*span)) for span in ((0, 3000), (0, 3000), (5000, 8000)))
    assert (one == same).all()
    assert not np.isin(one, other).any()


def test_the_share_of_equal_minima_estimates_the_jaccard_similarity():
    sketcher = Sketcher(0.0001)  # one row a band: a key is a minimum
    assert sketcher.rows == 1
    one, other = sketcher.keys(shingle_set(0, 3000)), sketcher.keys(shingle_set(1000, 4000))
    assert (one == other).mean() == pytest.approx(2000 / 4000, abs=0.15)  # three standard deviations of 128 draws are 0.13


@pytest.mark.parametrize(("threshold", "rows"), [(0.5, 2), (0.7, 4), (0.8, 4), (0.9, 8), (1.0, 16), (0.01, 1)])
def test_bands_are_as_narrow_as_finding_a_pair_at_the_threshold_allows(threshold, rows):
    assert rows_for(threshold) == rows


def test_candidates_are_the_pairs_that_share_a_key_of_the_same_band():
    random_ = random.Random(3)
    keys = [[random_.randrange(6) for _ in range(3)] for _ in range(30)]
    expected = {
        (i, j) for i, j in itertools.combinations(range(30), 2) if any(a == b for a, b in zip(keys[i], keys[j], strict=True))
    }
    assert paired(keys) == expected


def test_no_rows_and_one_row_have_no_candidates():
    assert candidates(np.zeros((0, 4), np.uint64), np.zeros(0, np.int64)).shape == (0, 2)
    assert paired([[1, 2]]) == set()


def test_a_large_bucket_is_paired_with_its_best_and_its_neighbours_alone(monkeypatch):
    monkeypatch.setattr(minhash, "WHOLE", 3)
    assert paired([[7]] * 5, [4, 3, 0, 1, 2]) == {(0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (1, 4), (0, 1)}


def test_copies_just_at_the_threshold_are_nearly_all_found_and_too_narrow_bands_are_seen_to_miss_some(monkeypatch):
    draw = np.random.default_rng(2)
    sets = {row: np.unique(draw.integers(0, 1 << 63, 200, dtype=np.uint64)) for row in range(300)}
    assert sum(minhash.planted(sets, 0.7)) >= 0.99 * 300
    monkeypatch.setattr(minhash, "rows_for", lambda threshold: 16)
    assert sum(minhash.planted(sets, 0.7)) < 0.5 * 300
