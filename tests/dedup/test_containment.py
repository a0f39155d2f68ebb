import itertools
import random

import numpy as np
import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.executors.local import LocalExecutor
from provenlm.core.ngram_hashing import hash_ngrams, hash_words, splitmix64_array
from provenlm.core.records import Record
from provenlm.dedup import brute_force, metrics, near_duplicates
from provenlm.dedup.containment import MIN_SHARED_NGRAMS, find_contained
from provenlm.dedup.jaccard import SetStore


def random_sets(num_sets=40, seed=3):
    """Return sets of 0 to 60 of 300 values, with an excerpt of each of the first ten."""
    random_ = random.Random(seed)
    sets = [set(random_.sample(range(300), random_.randrange(60))) for _ in range(num_sets)]
    return sets + [set(sorted(members)[: len(members) // 2]) for members in sets[:10]]


def arrays_of(sets):
    return {row: splitmix64_array(np.array(sorted(members), np.uint64)) for row, members in enumerate(sets)}


def contained_pairs(sets, threshold, **options):
    arrays = {row: np.sort(members) for row, members in arrays_of(sets).items()}
    with SetStore(arrays.items()) as store:
        found = find_contained(store, list(arrays), threshold, **options)
    return dict(zip(map(tuple, found.pairs.tolist()), found.containments.tolist(), strict=True))


def defined_pairs(sets, threshold):
    return {
        (first, second): len(sets[first] & sets[second]) / min(len(sets[first]), len(sets[second]))
        for first, second in itertools.combinations(range(len(sets)), 2)
        if len(sets[first] & sets[second]) >= max(MIN_SHARED_NGRAMS, threshold * min(len(sets[first]), len(sets[second])))
    }


@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0])
def test_the_pairs_are_those_of_the_definition(threshold):
    sets = random_sets()
    expected = defined_pairs(sets, threshold)
    assert len(expected) > 4
    assert contained_pairs(sets, threshold) == expected


def test_brute_force_finds_the_same_pairs():
    sets = random_sets()
    arrays = {row: np.sort(members) for row, members in arrays_of(sets).items()}
    expected = {pair: value for pair, value in defined_pairs(sets, 0.6).items() if min(pair) < 12}
    assert brute_force.brute_force_pairs(arrays.items(), {row: arrays[row] for row in range(12)}, 0.6, "containment") == expected


def test_a_sample_of_the_ngrams_finds_the_halves_of_large_sets():
    random_ = random.Random(1)
    sets = [set(random_.sample(range(10**6), 400)) for _ in range(30)]
    halves = [set(sorted(members)[:200]) for members in sets]
    assert set(contained_pairs(sets + halves, 0.6, max_ngrams=4000)) == {(n, n + 30) for n in range(30)}


def test_few_common_ngrams_make_no_pair():
    whole = set(range(100))
    assert contained_pairs([whole, set(range(MIN_SHARED_NGRAMS - 1))], 0.6) == {}
    assert contained_pairs([whole, set(range(MIN_SHARED_NGRAMS))], 0.6) == {(0, 1): 1.0}
    assert contained_pairs([], 0.6) == {}


def record(words, source):
    return Record.from_content(" ".join(words).encode(), "text/plain", source, score=1.0)


def planted():
    """Return twelve unrelated records and the first half of four of them."""
    texts = [random.Random(seed).choices([f"w{i}" for i in range(3000)], k=200) for seed in range(12)]
    return [record(text, f"whole/{n}") for n, text in enumerate(texts)] + [
        record(text[:100], f"half/{n}") for n, text in enumerate(texts[:4])
    ]


def find(records, *thresholds):
    def ngrams(item):
        return hash_ngrams(hash_words(item.content), 3)

    return near_duplicates.find_duplicates(LocalExecutor(lambda: records), lambda item: item.content, ngrams, *thresholds)


def test_a_first_half_is_kept_in_the_cluster_of_the_whole():
    result = find(planted(), 0.8, 0.6)
    assert result.kept_mask.all()
    assert [result.cluster_ids[n] for n in range(4)] == list(result.cluster_ids[12:])
    assert len(set(result.cluster_ids)) == 12
    assert len(set(find(planted(), 0.8).cluster_ids)) == 16


def test_a_search_that_misses_a_variant_is_found_by_brute_force():
    records = planted()
    truth = {(n, n + 12): 1.0 for n in range(4)}
    for result, num_separated in ((find(records, 0.8, 0.6), 0), (find(records, 0.8), 4)):
        recorder = MetricRecorder()
        metrics.record_containment(recorder, result, truth)
        values = {name: metric.value for name, metric in recorder.metrics.items()}
        assert values["pairs.separated"] == num_separated
        assert values["clusters.variants"] == (8 if num_separated == 0 else 0)
