"""Test the votes of views, with answers worked out by hand."""

import numpy as np
import pytest

from provenlm.domains.grids.evaluate import voting
from provenlm.domains.grids.evaluate.voting import ViewPrediction

A, B, C = (np.array([[color, 0]], np.uint8) for color in (1, 2, 3))
WIDE = np.array([[1], [0]], np.uint8)  # the bytes of A in another shape


def log_probs(*rows):
    """Return log-probabilities of cells, each given as {colour: probability}; the rest is spread over the other colours."""
    table = []
    for row in rows:
        rest = (1 - sum(row.values())) / (10 - len(row))
        table.append([np.log(row.get(color, rest)) for color in range(10)])
    return np.array(table)


def grids(candidates):
    return [candidate.grid.tolist() for candidate in candidates]


def test_the_most_probable_grid_is_filled_by_rows():
    prediction = voting.most_probable(log_probs({7: 0.5}, {2: 0.8}, {0: 0.9}, {1: 1 / 2}), 2, 2)
    assert prediction.grid.tolist() == [[7, 2], [0, 1]]
    assert prediction.log_prob == pytest.approx(np.log([0.5, 0.8, 0.9, 0.5]).mean())
    with pytest.raises(ValueError, match=r"log_probs_XC must have the shape \(6, 10\), got \(4, 10\)"):
        voting.most_probable(log_probs({7: 0.5}, {2: 0.8}, {0: 0.9}, {1: 0.5}), 2, 3)


def test_the_grid_with_more_votes_wins():
    predictions = [ViewPrediction(A, -5.0), ViewPrediction(B, -0.1), ViewPrediction(A, -3.0)]
    ranking = voting.vote(predictions)
    assert grids(ranking) == [A.tolist(), B.tolist()]
    assert [(candidate.views, candidate.log_prob) for candidate in ranking] == [((0, 2), -4.0), ((1,), -0.1)]


def test_a_tie_of_votes_is_broken_by_the_mean_log_probability():
    predictions = [ViewPrediction(A, -2.0), ViewPrediction(B, -0.5), ViewPrediction(C, -1.0), ViewPrediction(C, -3.0)]
    assert grids(voting.vote(predictions)) == [C.tolist(), B.tolist(), A.tolist()]
    tied = [ViewPrediction(A, -2.0), ViewPrediction(B, -2.0)]
    assert grids(voting.vote(tied)) == [A.tolist(), B.tolist()]


def test_grids_of_equal_bytes_and_other_shape_are_different():
    ranking = voting.vote([ViewPrediction(A, -1.0), ViewPrediction(WIDE, -2.0)])
    assert [candidate.num_votes for candidate in ranking] == [1, 1]


def test_the_product_of_experts_can_choose_what_no_view_chose():
    """Each of two views is sure of another cell; the mean takes from both what they are sure of."""
    first, second = log_probs({1: 0.9}, {5: 0.4, 6: 0.5}), log_probs({1: 0.4, 2: 0.5}, {5: 0.9})
    (candidate,) = voting.product_of_experts([first, second], [(1, 2), (1, 2)])
    assert candidate.grid.tolist() == [[1, 5]]
    expected = np.mean([(np.log(0.9) + np.log(0.4)) / 2] * 2)
    assert candidate.log_prob == pytest.approx(expected)
    votes = voting.vote([voting.most_probable(view, 1, 2) for view in (first, second)])
    assert [1, 5] not in [grid[0] for grid in grids(votes)]


def test_views_of_another_size_are_other_experts():
    rows = log_probs({1: 0.6}, {2: 0.6})
    ranking = voting.product_of_experts([rows, rows, rows], [(2, 1), (1, 2), (1, 2)])
    assert [(candidate.grid.shape, candidate.views) for candidate in ranking] == [((1, 2), (1, 2)), ((2, 1), (0,))]


def test_the_second_choice_changes_the_least_sure_cell():
    rows = log_probs({1: 0.9}, {5: 0.5, 6: 0.45})
    assert voting.second_choice(rows, np.array([[1, 5]], np.uint8)).tolist() == [[1, 6]]


def test_two_attempts_are_distinct():
    votes = voting.vote([ViewPrediction(A, -1.0), ViewPrediction(A, -1.0), ViewPrediction(B, -1.0)])
    experts = voting.vote([ViewPrediction(A, -1.0)])
    other = voting.vote([ViewPrediction(C, -1.0)])
    assert [grid.tolist() for grid in voting.two_attempts([votes])] == [A.tolist(), B.tolist()]
    assert [grid.tolist() for grid in voting.two_attempts([votes, experts])] == [A.tolist(), B.tolist()]
    assert [grid.tolist() for grid in voting.two_attempts([votes, other])] == [A.tolist(), C.tolist()]
    assert [grid.tolist() for grid in voting.two_attempts([experts], fallback=C)] == [A.tolist(), C.tolist()]
    assert [grid.tolist() for grid in voting.two_attempts([experts], fallback=A)] == [A.tolist()]
    assert voting.two_attempts([]) == []
