import itertools
import random

import numpy as np
import pytest

from provenlm.core import rng
from provenlm.core.executors.local import Here
from provenlm.core.ngram_hashing import windows, words
from provenlm.core.records import Record
from provenlm.dedup import jaccard as similarity_of
from provenlm.dedup import near_duplicates

WORDS = [f"w{i}" for i in range(3000)]


def record(text: str, source: str = "s", score: float = 1.0) -> Record:
    return Record.of(text.encode(), "text/plain", source, score=score)


def shingles(item: Record) -> np.ndarray:
    return windows(words(item.body), 3)


def canonical(item: Record) -> bytes:
    return b" ".join(item.body.split())


def find(items: list[Record], threshold: float = 0.7) -> near_duplicates.Found:
    return near_duplicates.find(Here(lambda: items), canonical, shingles, threshold)


def prose(seed: int, count: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def changed(text: list[str], places: int, seed: int) -> list[str]:
    random_ = random.Random(seed)
    copy = list(text)
    for place in random_.sample(range(len(copy)), places):
        copy[place] = f"new{random_.randrange(10**9)}"
    return copy


def similarity(one: Record, other: Record) -> float:
    """Jaccard of word 3-grams, from the definition."""
    sets = []
    for item in (one, other):
        tokens = item.text.split()
        sets.append({tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def planted() -> list[Record]:
    """40 unrelated records; of the first ten an exact copy but for whitespace, of the next ten a copy with six words changed."""
    originals = [prose(seed) for seed in range(40)]
    exact = ["  ".join(text) + "\n" for text in originals[:10]]
    near = [" ".join(changed(text, 6, seed)) for seed, text in enumerate(originals[10:20])]
    texts = [" ".join(text) for text in originals] + exact + near
    return [record(text, f"s/{place}") for place, text in enumerate(texts)]


def test_planted_copies_are_found_and_unrelated_records_stay():
    items = planted()
    found = find(items)
    of = {frozenset((twin.row, twin.of)): twin.kind for twin in found.twins}
    assert of == {frozenset((i, 40 + i)): "exact" if i < 10 else "near" for i in range(20)}
    assert found.kept.sum() == 40


def test_every_removed_record_names_a_kept_one_that_it_is_verified_against():
    items = planted()
    found = find(items)
    for twin in found.twins:
        assert found.kept[twin.of]
        assert not found.kept[twin.row]
        assert twin.similarity == pytest.approx(similarity(items[twin.row], items[twin.of]))
        assert twin.similarity >= 0.7


def test_what_is_kept_holds_no_pair_at_the_threshold_and_what_goes_has_one():
    random_ = random.Random(9)
    items = [record(" ".join(changed(prose(i % 6), random_.randrange(1, 40), i)), f"s/{i}") for i in range(60)]
    found = find(items)
    pairs = {(i, j) for i, j in itertools.combinations(range(60), 2) if similarity(items[i], items[j]) >= 0.7}
    assert pairs
    assert set(map(tuple, found.pairs.tolist())) == pairs
    assert not [pair for pair in pairs if found.kept[list(pair)].all()]
    for row in np.flatnonzero(~found.kept):
        assert any(found.kept[i + j - row] for i, j in pairs if row in (i, j))


def test_of_twins_the_better_score_stays_then_the_longer_then_the_smaller_id():
    text = prose(1)
    low, high = record(" ".join(text), score=0.4), record(" ".join(changed(text, 2, 1)), score=0.9)
    assert find([low, high]).kept.tolist() == [False, True]
    short, long = record("one two three"), record("one  two  three")
    assert find([short, long]).kept.tolist() == [False, True]
    one, two = sorted([record("a b\nc"), record("a\nb c")], key=lambda item: item.id)
    assert find([two, one]).kept.tolist() == [False, True]


def test_the_same_body_from_two_sources_is_an_exact_twin():
    found = find([record("a b c", "first"), record("a b c", "second")])
    assert [(twin.row, twin.of, twin.kind) for twin in found.twins] == [(1, 0, "exact")]


def chain() -> list[Record]:
    """A~B and B~C, but A and C are not similar; the scores prefer A, then B."""
    a = prose(1)
    b = [*a[30:], *prose(2, 30)]
    c = [*b[30:], *prose(3, 30)]
    return [record(" ".join(text), score=score) for text, score in ((a, 0.9), (b, 0.8), (c, 0.7))]


def test_the_end_of_a_chain_stays_because_it_repeats_nothing_that_is_kept():
    a, b, c = chain()
    assert similarity(a, b) >= 0.7 <= similarity(b, c)
    assert similarity(a, c) < 0.7
    found = find([a, b, c])
    assert found.kept.tolist() == [True, False, True]
    assert [(twin.row, twin.of) for twin in found.twins] == [(1, 0)]


def share(identity: str) -> float:
    return rng.share_of(identity, "held out")


def test_a_chain_is_one_cluster_named_by_the_id_that_is_held_out_first():
    items = [*chain(), record("unrelated words only here")]
    found = find(items)
    assert list(found.cluster) == [min((item.id for item in items[:3]), key=share)] * 3 + [items[3].id]


def test_no_arrival_moves_a_held_out_record_into_training():
    """Every order of arrival of four twins, of which one is held out, and another has the smallest id of all."""
    twins = sorted((record(" ".join(changed(prose(1), 5, seed))) for seed in range(12)), key=lambda item: share(item.id))
    held, rest = twins[0], sorted(twins[1:], key=lambda item: item.id)
    items, held_out = [held, *rest[:3]], share(held.id) * 1.0001
    assert rest[0].id < held.id
    for order in itertools.permutations(items):
        found = [find(list(order[: count + 1])).cluster for count in range(4)]
        sides = [share(names[0]) < held_out for names in found]  # of the first to arrive, after each arrival
        assert sides == sorted(sides), "from training to held out at most, and never back"
        assert [share(of) < held_out for of in found[-1]] == [True] * 4


def test_an_exact_copy_of_a_near_twin_names_the_record_that_stays():
    text = prose(4)
    near = " ".join(changed(text, 4, 4))
    found = find([record(" ".join(text), score=0.9), record(near, "x", 0.5), record(near, "y", 0.5)])
    assert [(twin.row, twin.of, twin.kind) for twin in found.twins] == [(1, 0, "near"), (2, 0, "near")]


def test_the_most_similar_kept_record_is_named():
    text = prose(5)
    near, nearer = changed(text, 12, 1), changed(text, 12, 2)
    copy = changed(nearer, 1, 3)
    items = [record(" ".join(one), score=score) for one, score in ((near, 0.9), (nearer, 0.8), (copy, 0.7))]
    assert similarity(items[0], items[1]) < 0.7
    found = find(items, 0.65)
    assert similarity(items[0], items[2]) < similarity(items[1], items[2])
    assert [(twin.row, twin.of) for twin in found.twins] == [(2, 1)]


def test_a_threshold_above_1_asks_for_exact_twins_alone():
    text = prose(6)
    found = find([record(" ".join(text)), record(" ".join(changed(text, 1, 1))), record("  ".join(text))], 2.0)
    assert [twin.kind for twin in found.twins] == ["exact"]
    assert found.candidates == 0


def test_records_without_shingles_are_no_near_twins():
    assert find([record(""), record("a b c d")]).kept.all()


def test_no_records_are_no_twins():
    found = find([])
    assert (len(found.kept), found.twins, list(found.cluster)) == (0, [], [])


def test_the_order_of_the_records_changes_neither_what_stays_nor_the_clusters():
    items = planted() + chain()
    other = items[::-1]
    one, two = find(items), find(other)
    assert {items[row].id for row in np.flatnonzero(one.kept)} == {other[row].id for row in np.flatnonzero(two.kept)}
    assert {item.id: of for item, of in zip(items, one.cluster, strict=True)} == {
        item.id: of for item, of in zip(other, two.cluster, strict=True)
    }


def test_jaccard_of_sorted_sets():
    one, other = np.array([1, 2, 3], np.uint64), np.array([2, 3, 4, 5], np.uint64)
    assert similarity_of.jaccard(one, other) == pytest.approx(2 / 5)
    assert similarity_of.jaccard(one, one) == 1
    assert similarity_of.jaccard(one, np.zeros(0, np.uint64)) == 0


def test_sets_that_do_not_fit_into_memory_compare_the_same(monkeypatch):
    sets = {row: np.unique(windows(words(" ".join(prose(row % 3)[row:]).encode()), 3)) for row in range(9)}
    pairs = np.array(list(itertools.combinations(range(9), 2)))
    expected = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in ((sets[i].tolist(), sets[j].tolist()) for i, j in pairs)]
    monkeypatch.setattr(similarity_of, "HELD", 1)
    with similarity_of.Sets(sets.items()) as held:
        assert similarity_of.compare(pairs, held).tolist() == pytest.approx(expected)
