import itertools
import random

import numpy as np

from provenlm.dedup import brute_force


def test_brute_force_pairs_equal_pairwise_set_comparison():
    random_ = random.Random(5)
    base = set(range(40))
    sets = [set(random_.sample(sorted(base), random_.randrange(20, 40))) for _ in range(30)] + [set()]
    arrays = {row: np.array(sorted(members), np.uint64) for row, members in enumerate(sets)}
    pivots = {row: arrays[row] for row in (3, 4, 11, 30)}
    expected = {
        (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        for i, j in itertools.combinations(range(31), 2)
        if (i in pivots or j in pivots) and len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])) >= 0.6
    }
    assert len(expected) > 5
    assert brute_force.brute_force_pairs(arrays.items(), pivots, 0.6) == expected


def test_no_pivots_give_no_pairs():
    assert brute_force.brute_force_pairs([(0, np.array([1], np.uint64))], {}, 0.5) == {}
