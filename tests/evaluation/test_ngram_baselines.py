"""Test the unigram and bigram baselines."""

import itertools
import math

import numpy as np
import pytest

from provenlm.evaluation import ngram_baselines


def brute_force_kneser_ney(documents, vocabulary, previous, following):
    """Apply the textbook formulas pair by pair, with the discount estimate of the module."""
    pairs = [pair for document in documents for pair in itertools.pairwise(document)]
    distinct_pairs = set(pairs)

    def discount(counts):
        n1, n2 = sum(c == 1 for c in counts), sum(c == 2 for c in counts)
        return min(max(n1 / (n1 + 2 * n2) if n1 + n2 else 0.1, 0.1), 0.95)

    continuations = [len({a for a, b in distinct_pairs if b == token}) for token in range(vocabulary)]
    positive = [c for c in continuations if c]
    low = discount(positive)
    p_low = max(continuations[following] - low, 0) / len(distinct_pairs) + low * len(positive) / len(distinct_pairs) / vocabulary
    total = sum(a == previous for a, _ in pairs)
    if not total:
        return p_low
    high = discount([pairs.count(pair) for pair in distinct_pairs])
    count = pairs.count((previous, following))
    after = len({b for a, b in distinct_pairs if a == previous})
    return max(count - high, 0) / total + high * after / total * p_low


DOCUMENTS = [[1, 3, 4, 3, 4, 5, 2], [1, 3, 5, 5, 3, 4, 2], [1, 4, 2]]


def test_the_bigram_is_kneser_ney_computed_by_hand(factory):
    _, bigram = ngram_baselines.fit_ngrams(factory.split(DOCUMENTS, "abc"), 8)
    pairs = [(a, b) for a in range(8) for b in range(8)]
    previous, following = np.array(pairs).T
    expected = [brute_force_kneser_ney(DOCUMENTS, 8, a, b) for a, b in pairs]
    np.testing.assert_allclose(bigram.probabilities(previous, following), expected, rtol=1e-12)


def test_the_probabilities_after_every_token_sum_to_one(factory):
    _, bigram = ngram_baselines.fit_ngrams(factory.split(DOCUMENTS, "abc"), 8)
    sums = [bigram.probabilities(np.full(8, token), np.arange(8)).sum() for token in range(8)]
    np.testing.assert_allclose(sums, np.ones(8), rtol=1e-12)


def test_unigram_probabilities_sum_to_one_and_are_positive(factory):
    unigram, _ = ngram_baselines.fit_ngrams(factory.split(DOCUMENTS, "abc"), 8)
    assert unigram.probabilities_V.sum() == pytest.approx(1, abs=1e-12)
    assert unigram.probabilities_V.min() > 0


def test_the_first_token_of_a_document_is_never_a_target(factory):
    _, bigram = ngram_baselines.fit_ngrams(factory.split([[1, 3, 2], [1, 4, 2]], "ab"), 5)
    assert 2 * 5 + 1 not in bigram.pair_ids  # `eos` of the first document, then `bos` of the second


def test_unseen_pairs_have_a_positive_probability(factory):
    _, bigram = ngram_baselines.fit_ngrams(factory.split([[3, 4] * 20], "a"), 6)
    assert bigram.probabilities(np.array([3]), np.array([5]))[0] > 0


def test_the_best_continuation_is_the_argmax_of_all_probabilities(factory):
    documents = factory.documents(5, 3)
    _, bigram = ngram_baselines.fit_ngrams(factory.split(documents, "abcde"), 29)
    table = np.stack([bigram.probabilities(np.full(29, token), np.arange(29)) for token in range(29)])
    chosen_probabilities = table[np.arange(29), bigram.top_continuations()]
    np.testing.assert_allclose(chosen_probabilities, table.max(1), rtol=1e-12)


def test_the_bigram_beats_the_unigram_where_letters_follow_a_rule(factory):
    unigram, bigram = ngram_baselines.fit_ngrams(factory.split(factory.documents(60, 1), [str(n) for n in range(60)]), 29)
    held_out = np.array(factory.documents(1, 9)[0])
    assert bigram.nats(held_out[:-1], held_out[1:]).mean() < unigram.nats(held_out[1:]).mean() - 1
    assert unigram.nats(held_out[1:]).mean() < math.log(29) + 0.3


def test_a_split_without_a_pair_is_refused(factory):
    with pytest.raises(ValueError, match="at least one document of two tokens"):
        ngram_baselines.fit_ngrams(factory.split([[1]], "a", [0]), 5)
