"""Test predictions of the grid transformer and the votes of views, with answers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from provenlm.models.grid_transformer import predict
from provenlm.models.grid_transformer.predict import ViewPrediction
from tests.models.grid_cases import IGNORE, make_batch, make_model, random_batch, without_targets

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


def test_predictions_stand_at_output_cells_alone():
    model, batch = make_model(), random_batch()
    colors_BT = predict.predict(model, batch)
    assert torch.equal(colors_BT != IGNORE, batch.targets_BT != IGNORE)
    is_output_BT = predict.output_cells(batch)
    assert torch.equal(colors_BT[is_output_BT], model(batch).argmax(-1)[is_output_BT])
    assert torch.equal(colors_BT, predict.predict(model, without_targets(batch)))


def test_colours_of_a_view_are_undone():
    """Colour 4 stands for 1 in the view, so what the view says of 4 is said of 1."""
    colors_BC = torch.tensor([[0, 4, 2, 3, 1, 5, 6, 7, 8, 9], list(range(10))])
    log_probs_BTC = torch.arange(2 * 3 * 10.0).view(2, 3, 10)
    undone = predict.undo_colors(log_probs_BTC, colors_BC)
    assert torch.equal(undone[0, :, 1], log_probs_BTC[0, :, 4])
    assert torch.equal(undone[0, :, 4], log_probs_BTC[0, :, 1])
    assert torch.equal(undone[1], log_probs_BTC[1])


def test_the_most_probable_grid_is_filled_by_rows():
    prediction = predict.most_probable(log_probs({7: 0.5}, {2: 0.8}, {0: 0.9}, {1: 1 / 2}), 2, 2)
    assert prediction.grid.tolist() == [[7, 2], [0, 1]]
    assert prediction.log_prob == pytest.approx(np.log([0.5, 0.8, 0.9, 0.5]).mean())
    with pytest.raises(ValueError, match=r"log_probs_XC must have the shape \(6, 10\), got \(4, 10\)"):
        predict.most_probable(log_probs({7: 0.5}, {2: 0.8}, {0: 0.9}, {1: 0.5}), 2, 3)


def test_the_grid_with_more_votes_wins():
    predictions = [ViewPrediction(A, -5.0), ViewPrediction(B, -0.1), ViewPrediction(A, -3.0)]
    ranking = predict.vote(predictions)
    assert grids(ranking) == [A.tolist(), B.tolist()]
    assert [(candidate.views, candidate.log_prob) for candidate in ranking] == [((0, 2), -4.0), ((1,), -0.1)]


def test_a_tie_of_votes_is_broken_by_the_mean_log_probability():
    predictions = [ViewPrediction(A, -2.0), ViewPrediction(B, -0.5), ViewPrediction(C, -1.0), ViewPrediction(C, -3.0)]
    assert grids(predict.vote(predictions)) == [C.tolist(), B.tolist(), A.tolist()]
    tied = [ViewPrediction(A, -2.0), ViewPrediction(B, -2.0)]
    assert grids(predict.vote(tied)) == [A.tolist(), B.tolist()]


def test_grids_of_equal_bytes_and_other_shape_are_different():
    ranking = predict.vote([ViewPrediction(A, -1.0), ViewPrediction(WIDE, -2.0)])
    assert [candidate.num_votes for candidate in ranking] == [1, 1]


def test_the_product_of_experts_can_choose_what_no_view_chose():
    """Each of two views is sure of another cell; the mean takes from both what they are sure of."""
    first, second = log_probs({1: 0.9}, {5: 0.4, 6: 0.5}), log_probs({1: 0.4, 2: 0.5}, {5: 0.9})
    (candidate,) = predict.product_of_experts([first, second], [(1, 2), (1, 2)])
    assert candidate.grid.tolist() == [[1, 5]]
    expected = np.mean([(np.log(0.9) + np.log(0.4)) / 2] * 2)
    assert candidate.log_prob == pytest.approx(expected)
    votes = predict.vote([predict.most_probable(view, 1, 2) for view in (first, second)])
    assert [1, 5] not in [grid[0] for grid in grids(votes)]


def test_views_of_another_size_are_other_experts():
    rows = log_probs({1: 0.6}, {2: 0.6})
    ranking = predict.product_of_experts([rows, rows, rows], [(2, 1), (1, 2), (1, 2)])
    assert [(candidate.grid.shape, candidate.views) for candidate in ranking] == [((1, 2), (1, 2)), ((2, 1), (0,))]


def test_the_second_choice_changes_the_least_sure_cell():
    rows = log_probs({1: 0.9}, {5: 0.5, 6: 0.45})
    assert predict.second_choice(rows, np.array([[1, 5]], np.uint8)).tolist() == [[1, 6]]


def test_two_attempts_are_distinct():
    votes = predict.vote([ViewPrediction(A, -1.0), ViewPrediction(A, -1.0), ViewPrediction(B, -1.0)])
    experts = predict.vote([ViewPrediction(A, -1.0)])
    other = predict.vote([ViewPrediction(C, -1.0)])
    assert [grid.tolist() for grid in predict.two_attempts([votes])] == [A.tolist(), B.tolist()]
    assert [grid.tolist() for grid in predict.two_attempts([votes, experts])] == [A.tolist(), B.tolist()]
    assert [grid.tolist() for grid in predict.two_attempts([votes, other])] == [A.tolist(), C.tolist()]
    assert [grid.tolist() for grid in predict.two_attempts([experts], fallback=C)] == [A.tolist(), C.tolist()]
    assert [grid.tolist() for grid in predict.two_attempts([experts], fallback=A)] == [A.tolist()]
    assert predict.two_attempts([]) == []


def views_of(pair):
    """Return a puzzle without targets, three views of it in other colours, and these colours."""
    puzzle = without_targets(make_batch([pair]))
    colors_BC = torch.stack([torch.arange(10), torch.arange(9, -1, -1), torch.arange(10).roll(3)])
    tokens_T = puzzle.inputs_BT[0]
    inputs_BT = torch.stack([torch.where(tokens_T < 10, colors_C[tokens_T.clamp(max=9)], tokens_T) for colors_C in colors_BC])
    views = replace(puzzle.map(lambda tensor: torch.cat([tensor] * 3)), inputs_BT=inputs_BT)
    return puzzle, views, colors_BC


@pytest.mark.parametrize("pair", [([[1, 2], [3, 0]], [[4, 4], [0, 0]]), ([[1, 2], [3, 0]], [[5, 1, 2]])])
def test_a_view_that_carries_the_answer_is_visible(pair):
    """As targets, as tokens of the cells to predict, or as cells that the puzzle does not have."""
    puzzle, views, colors_BC = views_of(pair)
    assert predict.leaky_views(views, puzzle, colors_BC) == []
    targets_BT = views.targets_BT.clone()
    targets_BT[1, -1] = 2
    assert predict.leaky_views(replace(views, targets_BT=targets_BT), puzzle, colors_BC) == [1]
    answer_T = torch.tensor([color for line in pair[1] for color in line])
    inputs_BT = views.inputs_BT.clone()
    inputs_BT[2, -len(answer_T) :] = colors_BC[2][answer_T]
    assert predict.leaky_views(replace(views, inputs_BT=inputs_BT), puzzle, colors_BC) == [2]
    longer = views.map(lambda tensor: torch.cat([tensor, tensor[:, -1:]], 1) if tensor.ndim > 1 else tensor)
    assert predict.leaky_views(longer, puzzle, colors_BC) == [0, 1, 2]
