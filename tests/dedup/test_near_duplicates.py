import itertools
import random
import unicodedata

import numpy as np
import pytest

from provenlm.core import rng
from provenlm.core.executors.local import LocalExecutor
from provenlm.core.ngram_hashing import hash_ngrams, hash_words
from provenlm.core.records import Record
from provenlm.dedup import jaccard as similarity_of
from provenlm.dedup import near_duplicates

WORDS = [f"w{i}" for i in range(3000)]


def record(text: str, source: str = "s", score: float = 1.0) -> Record:
    return Record.from_content(text.encode(), "text/plain", source, score=score)


def ngram_hashes(item: Record) -> np.ndarray:
    return hash_ngrams(hash_words(item.content), 3)


def normalize(item: Record) -> bytes:
    return b" ".join(item.content.split())


def find(items: list[Record], threshold: float = 0.7) -> near_duplicates.DedupResult:
    return near_duplicates.find_duplicates(LocalExecutor(lambda: items), normalize, ngram_hashes, threshold)


def prose(seed: int, count: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def replace_words(text: list[str], num_replacements: int, seed: int) -> list[str]:
    random_ = random.Random(seed)
    copy = list(text)
    for index in random_.sample(range(len(copy)), num_replacements):
        copy[index] = f"new{random_.randrange(10**9)}"
    return copy


def jaccard(left: Record, right: Record) -> float:
    """Compute the Jaccard similarity of word 3-grams from the definition."""
    sets = []
    for item in (left, right):
        tokens = item.text.split()
        sets.append({tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def synthetic_records() -> list[Record]:
    """Build 40 unrelated records, copies of ten with other whitespace and copies of ten with six words replaced."""
    originals = [prose(seed) for seed in range(40)]
    exact = ["  ".join(text) + "\n" for text in originals[:10]]
    near = [" ".join(replace_words(text, 6, seed)) for seed, text in enumerate(originals[10:20])]
    texts = [" ".join(text) for text in originals] + exact + near
    return [record(text, f"s/{index}") for index, text in enumerate(texts)]


def test_synthetic_copies_are_found_and_unrelated_records_are_kept():
    items = synthetic_records()
    result = find(items)
    kinds = {frozenset((duplicate.row, duplicate.kept_row)): duplicate.kind for duplicate in result.duplicates}
    assert kinds == {frozenset((i, 40 + i)): "exact" if i < 10 else "near" for i in range(20)}
    assert result.kept_mask.sum() == 40


def test_every_removed_record_names_a_verified_kept_record():
    items = synthetic_records()
    result = find(items)
    for duplicate in result.duplicates:
        assert result.kept_mask[duplicate.kept_row]
        assert not result.kept_mask[duplicate.row]
        assert duplicate.similarity == pytest.approx(jaccard(items[duplicate.row], items[duplicate.kept_row]))
        assert duplicate.similarity >= 0.7


def test_kept_records_have_no_similar_pair_and_removed_ones_have_one():
    random_ = random.Random(9)
    items = [record(" ".join(replace_words(prose(i % 6), random_.randrange(1, 40), i)), f"s/{i}") for i in range(60)]
    result = find(items)
    pairs = {(i, j) for i, j in itertools.combinations(range(60), 2) if jaccard(items[i], items[j]) >= 0.7}
    assert pairs
    assert set(map(tuple, result.pairs.tolist())) == pairs
    assert not [pair for pair in pairs if result.kept_mask[list(pair)].all()]
    for row in np.flatnonzero(~result.kept_mask):
        assert any(result.kept_mask[i + j - row] for i, j in pairs if row in (i, j))


def test_score_then_length_then_id_decide_which_duplicate_is_kept():
    text = prose(1)
    low, high = record(" ".join(text), score=0.4), record(" ".join(replace_words(text, 2, 1)), score=0.9)
    assert find([low, high]).kept_mask.tolist() == [False, True]
    short, long = record("one two three"), record("one  two  three")
    assert find([short, long]).kept_mask.tolist() == [False, True]
    smaller, larger = sorted([record("a b\nc"), record("a\nb c")], key=lambda item: item.id)
    assert find([larger, smaller]).kept_mask.tolist() == [False, True]


def test_the_same_content_from_two_sources_is_an_exact_duplicate():
    result = find([record("a b c", "first"), record("a b c", "second")])
    assert [(duplicate.row, duplicate.kept_row, duplicate.kind) for duplicate in result.duplicates] == [(1, 0, "exact")]


def chain() -> list[Record]:
    """Build A, B, C where A~B and B~C but not A~C; the scores prefer A, then B."""
    a = prose(1)
    b = [*a[30:], *prose(2, 30)]
    c = [*b[30:], *prose(3, 30)]
    return [record(" ".join(text), score=score) for text, score in ((a, 0.9), (b, 0.8), (c, 0.7))]


def test_the_end_of_a_chain_is_kept_if_it_duplicates_no_kept_record():
    a, b, c = chain()
    assert jaccard(a, b) >= 0.7 <= jaccard(b, c)
    assert jaccard(a, c) < 0.7
    result = find([a, b, c])
    assert result.kept_mask.tolist() == [True, False, True]
    assert [(duplicate.row, duplicate.kept_row) for duplicate in result.duplicates] == [(1, 0)]


def split_share(identity: str) -> float:
    return rng.hash_to_unit(identity, "held out")


def test_a_chain_is_one_cluster_named_by_its_lowest_split_hash():
    items = [*chain(), record("unrelated words only here")]
    result = find(items)
    assert list(result.cluster_ids) == [min((item.id for item in items[:3]), key=split_share)] * 3 + [items[3].id]


def test_a_new_record_never_moves_a_held_out_record_into_training():
    """Test every order of four near-duplicates, one of which is held out while another has the smallest id."""
    near_duplicates = sorted(
        (record(" ".join(replace_words(prose(1), 5, seed))) for seed in range(12)), key=lambda item: split_share(item.id)
    )
    held_out_record, rest = near_duplicates[0], sorted(near_duplicates[1:], key=lambda item: item.id)
    items, val_fraction = [held_out_record, *rest[:3]], split_share(held_out_record.id) * 1.0001
    assert rest[0].id < held_out_record.id
    for order in itertools.permutations(items):
        cluster_ids = [find(list(order[: count + 1])).cluster_ids for count in range(4)]
        sides = [split_share(names[0]) < val_fraction for names in cluster_ids]  # split of the first record after each arrival
        assert sides == sorted(sides), "a record may move from training to validation, but never back"
        assert [split_share(cluster_id) < val_fraction for cluster_id in cluster_ids[-1]] == [True] * 4


def test_an_exact_copy_of_a_near_duplicate_names_the_kept_record():
    text = prose(4)
    near = " ".join(replace_words(text, 4, 4))
    result = find([record(" ".join(text), score=0.9), record(near, "x", 0.5), record(near, "y", 0.5)])
    assert [(duplicate.row, duplicate.kept_row, duplicate.kind) for duplicate in result.duplicates] == [
        (1, 0, "near"),
        (2, 0, "near"),
    ]


def test_the_most_similar_kept_record_is_named():
    text = prose(5)
    near, nearer = replace_words(text, 12, 1), replace_words(text, 12, 2)
    copy = replace_words(nearer, 1, 3)
    items = [record(" ".join(words_), score=score) for words_, score in ((near, 0.9), (nearer, 0.8), (copy, 0.7))]
    assert jaccard(items[0], items[1]) < 0.7
    result = find(items, 0.65)
    assert jaccard(items[0], items[2]) < jaccard(items[1], items[2])
    assert [(duplicate.row, duplicate.kept_row) for duplicate in result.duplicates] == [(2, 1)]


def test_a_threshold_above_1_finds_exact_duplicates_only():
    text = prose(6)
    result = find([record(" ".join(text)), record(" ".join(replace_words(text, 1, 1))), record("  ".join(text))], 2.0)
    assert [duplicate.kind for duplicate in result.duplicates] == ["exact"]
    assert result.num_candidates == 0


def test_records_without_ngrams_are_no_near_duplicates():
    assert find([record(""), record("a b c d")]).kept_mask.all()


def test_an_empty_corpus_has_no_duplicates():
    result = find([])
    assert (len(result.kept_mask), result.duplicates, list(result.cluster_ids)) == (0, [], [])


def test_record_order_changes_neither_kept_records_nor_clusters():
    items = synthetic_records() + chain()
    reversed_items = items[::-1]
    forward, backward = find(items), find(reversed_items)
    assert {items[row].id for row in np.flatnonzero(forward.kept_mask)} == {
        reversed_items[row].id for row in np.flatnonzero(backward.kept_mask)
    }
    assert {item.id: cluster_id for item, cluster_id in zip(items, forward.cluster_ids, strict=True)} == {
        item.id: cluster_id for item, cluster_id in zip(reversed_items, backward.cluster_ids, strict=True)
    }


def test_jaccard_of_sorted_sets():
    left, right = np.array([1, 2, 3], np.uint64), np.array([2, 3, 4, 5], np.uint64)
    assert similarity_of.jaccard(left, right) == pytest.approx(2 / 5)
    assert similarity_of.jaccard(left, left) == 1
    assert similarity_of.jaccard(left, np.zeros(0, np.uint64)) == 0


def test_sets_that_exceed_the_cache_give_the_same_similarities(monkeypatch):
    sets = {row: np.unique(hash_ngrams(hash_words(" ".join(prose(row % 3)[row:]).encode()), 3)) for row in range(9)}
    pairs = np.array(list(itertools.combinations(range(9), 2)))
    expected = [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in ((sets[i].tolist(), sets[j].tolist()) for i, j in pairs)]
    monkeypatch.setattr(similarity_of, "MAX_CACHE_BYTES", 1)
    with similarity_of.SetStore(sets.items()) as store:
        assert similarity_of.jaccard_similarities(pairs, store).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "unclean",
    [
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: text.replace("w1", "w\u00ad1"),
        lambda text: "\ufeff" + text.replace(" w9", " \u200bw9"),
        lambda text: text.replace("é", "\ufffd", 2),
        lambda text: text.replace("é", "\u0082", 2),
    ],
    ids=["form D", "soft hyphens", "invisible", "replaced", "controls"],
)
@pytest.mark.parametrize("clean_row", [0, 1])
def test_of_two_copies_of_equal_score_the_clean_one_is_kept(unclean, clean_row):
    text = " ".join(["w1", *prose(4), "é", "crêpe é"])
    copies = [record(text, "clean"), record(unclean(text), "unclean")]

    def normalize_and_strip(item: Record) -> bytes:
        return unicodedata.normalize("NFC", item.text).replace("\u00ad", "").encode()

    items = copies if clean_row == 0 else copies[::-1]
    result = near_duplicates.find_duplicates(LocalExecutor(lambda: items), normalize_and_strip, ngram_hashes, 0.3)
    assert [items[row].source for row in np.flatnonzero(result.kept_mask)] == ["clean"]


def test_a_longer_copy_is_kept_even_if_it_is_less_clean():
    short = " ".join([*prose(4), "é"])
    items = [record(short, "short"), record(f"{short} and the last line\u00ad", "long")]
    assert [items[row].source for row in np.flatnonzero(find(items).kept_mask)] == ["long"]
