"""Test the best accuracy and loss of a causal predictor."""

import math

import pytest

from provenlm.evaluation.ceilings import prefix_upper_bound

SEED = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY", "12345", "67890", "AAAAA", "BBBBB", "CCCCC", "A1B2C", "X9Y8Z"]


def test_where_a_prefix_branches_in_three_one_of_three_can_be_right():
    found = prefix_upper_bound(([1, 5, n], 2) for n in (7, 8, 9))
    assert found.max_accuracy == pytest.approx(1 / 3)
    assert found.min_loss == pytest.approx(math.log(3))


def test_an_unambiguous_corpus_has_accuracy_1_and_loss_0():
    found = prefix_upper_bound([([1, 5, 6], 2), ([1, 7, 8], 2)])
    assert (found.max_accuracy, found.min_loss, found.num_targets) == (1.0, 0.0, 2)


def test_context_tokens_are_not_targets():
    assert prefix_upper_bound([([1, 5, 6], 1), ([1, 7, 8], 1)]).max_accuracy == 3 / 4


def test_the_twelve_strings_have_a_lowest_loss_of_0_0687_nats():
    """Only the prefix A branches: three ways once, so ln 3 · 3 / 48 targets."""
    found = prefix_upper_bound((list(map(ord, text)), 1) for text in SEED)
    assert found.min_loss == pytest.approx(3 * math.log(3) / 48)
    assert round(found.min_loss, 4) == 0.0687
    assert found.max_accuracy == pytest.approx(46 / 48)


def test_sequences_without_targets_are_refused():
    with pytest.raises(ValueError, match="no targets"):
        prefix_upper_bound([([1], 1)])
