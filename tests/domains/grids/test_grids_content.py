"""Test puzzles, their symmetries and canonical hashes; the known duplicates of ARC are found."""

import json

import numpy as np
import pytest

from provenlm.core.errors import DataError
from provenlm.domains.grids.content import symmetries
from provenlm.domains.grids.content.canonical import CHUNK_CELLS, canonical_hashes, find_shared_pairs, puzzle_hashes
from provenlm.domains.grids.content.puzzle import (
    GridPair,
    encode_puzzle,
    encode_task,
    find_fault,
    hide_solutions,
    parse_puzzle,
    reveal_solutions,
)
from provenlm.domains.grids.content.symmetries import GridView, apply_symmetry, draw_views, fixed_colors, inverse_symmetry
from tests.domains.grids.puzzles import FLIP, GROW, official_puzzles, puzzle, random_puzzle

GRID = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)


def test_a_puzzle_survives_its_json_form():
    assert json.loads(encode_puzzle(puzzle(GROW))) == GROW
    assert encode_puzzle(parse_puzzle(encode_task(GROW))) == encode_task(GROW)


def test_a_hidden_output_stays_hidden():
    parsed = parse_puzzle(encode_task(GROW))
    assert parsed.test[1].output is None and parsed.test[0].output is not None
    challenge, solutions = hide_solutions(FLIP)
    assert "output" not in json.dumps(challenge["test"]) and solutions == [[[6, 5], [0, 0]]]
    assert reveal_solutions(challenge, solutions) == FLIP
    assert hide_solutions(GROW)[1] == [GROW["test"][0]["output"], None]


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ([], "structure"),
        ({"train": FLIP["train"], "test": 3}, "structure"),
        ({"train": [7], "test": FLIP["test"]}, "structure"),
        ({"train": [], "test": FLIP["test"]}, "no_train_pairs"),
        ({"train": FLIP["train"], "test": []}, "no_test_pairs"),
        ({"train": [{"output": [[1]]}], "test": FLIP["test"]}, "missing_input"),
        ({"train": [{"input": [[1]]}], "test": FLIP["test"]}, "missing_output"),
        ({"train": FLIP["train"], "test": [{"input": [[1, 2], [3]]}]}, "not_rectangular"),
        ({"train": FLIP["train"], "test": [{"input": [[1]], "output": None}]}, "structure"),
        ({"train": FLIP["train"], "test": [{"input": [[0] * 31]}]}, "grid_size"),
        ({"train": FLIP["train"], "test": [{"input": []}]}, "grid_size"),
        ({"train": FLIP["train"], "test": [{"input": [[10]]}]}, "color"),
        ({"train": FLIP["train"], "test": [{"input": [[True]]}]}, "color"),
        ({"train": FLIP["train"], "test": [{"input": [[1.0]]}]}, "color"),
        ({"train": FLIP["train"], "test": [{"input": [["__import__('os')"]]}]}, "color"),
    ],
)
def test_each_planted_fault_is_named(task, fault):
    assert find_fault(task) == fault
    with pytest.raises(DataError, match=f"got {fault}"):
        parse_puzzle(json.dumps(task).encode())


def test_sound_tasks_have_no_fault():
    assert find_fault(FLIP) is None and find_fault(GROW) is None


def test_the_eight_symmetries_are_those_of_rotation_and_mirror():
    expected = {
        np.rot90(grid, turns).tobytes() + bytes(np.rot90(grid, turns).shape) for grid in (GRID, GRID.T) for turns in range(4)
    }
    views = [apply_symmetry(GRID, symmetry) for symmetry in range(symmetries.NUM_SYMMETRIES)]
    assert {view.tobytes() + bytes(view.shape) for view in views} == expected and len(expected) == 8


@pytest.mark.parametrize("symmetry", range(8))
def test_each_symmetry_has_its_inverse(symmetry):
    assert np.array_equal(apply_symmetry(apply_symmetry(GRID, symmetry), inverse_symmetry(symmetry)), GRID)
    flat = GRID.ravel()[symmetries.symmetry_indices(2, 3)[symmetry]]
    assert np.array_equal(flat, apply_symmetry(GRID, symmetry).ravel())


def test_each_view_can_be_inverted():
    drawn = draw_views(random_puzzle(1), 16, seed=0)
    assert drawn[0] == GridView() and len(set(drawn)) == 16 and {view.symmetry for view in drawn} == set(range(8))
    assert all(np.array_equal(view.invert(view.apply(GRID)), GRID) for view in drawn)
    assert draw_views(random_puzzle(1), 8, seed=0) == drawn[:8] and draw_views(random_puzzle(1), 16, seed=1) != drawn


def test_colour_0_and_colours_that_only_outputs_have_stay():
    recoloured = {"train": [{"input": [[1, 2]], "output": [[1, 9]]}], "test": [{"input": [[3, 4]]}]}
    fixed = fixed_colors(puzzle(recoloured))
    assert np.flatnonzero(fixed).tolist() == [0, 9]
    for view in draw_views(puzzle(recoloured), 20, seed=0):
        assert view.colors[0] == 0 and view.colors[9] == 9 and sorted(view.colors) == list(range(10))


def test_views_of_a_pair_have_one_hash_and_other_pairs_another():
    original = random_puzzle(2, num_pairs=4, same_size=False)
    hashes = puzzle_hashes(original)
    generator = np.random.default_rng(0)
    for symmetry in range(8):
        view = GridView(symmetry, tuple(generator.permutation(10).tolist()))
        assert np.array_equal(puzzle_hashes(view.apply_to_puzzle(original)), hashes)
    assert len(np.unique(hashes)) == 4
    pair = original.train[0]
    swapped = canonical_hashes([(pair.output, pair.input)])
    changed = pair.output.copy()
    changed[0, 0] = (changed[0, 0] + 1) % 10
    assert not np.isin([swapped[0], *canonical_hashes([(pair.input, changed), (pair.input, None)])], hashes).any()


def test_a_transposed_input_alone_is_another_pair():
    grid = np.array([[1, 2], [3, 3]], np.uint8)
    first, second = canonical_hashes([(grid, grid), (grid, grid[::-1])])
    assert first != second


def brute_force_key(pair: GridPair) -> bytes:
    """Return the canonical form itself, without hashes, by its definition."""
    forms = []
    for turns in range(4):
        for mirror in (1, -1):
            grids = [np.rot90(grid, turns)[:, ::mirror] for grid in (pair.input, pair.output)]
            colors = list(dict.fromkeys(int(color) for grid in grids for color in grid.ravel()))
            forms.append(
                bytes([side for grid in grids for side in grid.shape] + [colors.index(c) for grid in grids for c in grid.ravel()])
            )
    return min(forms)


def test_hashes_agree_with_canonical_forms_by_definition():
    """Small grids of few colours, so that many pairs are equal in some view."""
    generator = np.random.default_rng(0)
    pairs = [
        GridPair(generator.integers(0, 3, (1, 2), np.uint8), generator.integers(0, 3, generator.permutation([1, 2]), np.uint8))
        for _ in range(300)
    ]
    hashes = canonical_hashes([(pair.input, pair.output) for pair in pairs])
    groups = {(int(value), brute_force_key(pair)) for value, pair in zip(hashes, pairs, strict=True)}
    assert len(groups) == len({value for value, _ in groups}) == len({key for _, key in groups}) > 5


def test_a_chunk_boundary_changes_no_hash():
    pairs = [(pair.input, pair.output) for seed in range(4) for pair in random_puzzle(seed).pairs]
    large = np.zeros((30, 30), np.uint8)
    filler = [(large, large)] * (CHUNK_CELLS // 1800 + 1)
    assert np.array_equal(canonical_hashes([*filler, *pairs])[-len(pairs) :], canonical_hashes(pairs))


def test_the_known_leaks_of_arc_1_and_no_others_are_found():
    """The counts are those of independent work: 070dd51e and 50a16a69 are evaluation tasks whose answers stand in the training split."""
    shared = find_shared_pairs(official_puzzles("arc1"))
    names = {frozenset(key.split("/")[1] for key in keys): count for keys, count in shared.items()}
    assert names == {
        frozenset({"070dd51e", "40853293"}): 3,
        frozenset({"50a16a69", "caa06a1f"}): 2,
        frozenset({"27a28665", "44f52bb0"}): 1,
        frozenset({"8be77c9e", "c9e6f938"}): 1,
    }


def test_382_evaluation_tasks_of_arc_1_are_in_arc_2_and_one_more_under_another_id():
    """The one more is 55783887, which ARC-AGI-2 issued again as db695cfb."""
    first, second = official_puzzles("arc1"), official_puzzles("arc2")
    ids = {item.id for item in second.values()}
    candidates = {key: item for key, item in first.items() if key.startswith("evaluation")}
    shared = find_shared_pairs(
        {**{f"1/{key}": item for key, item in candidates.items()}, **{f"2/{key}": item for key, item in second.items()}}
    )
    in_both = {keys[0].rsplit("/")[-1]: keys[1].rsplit("/")[-1] for keys in shared if keys[0][0] == "1" and keys[1][0] == "2"}
    assert sum(item.id in ids for item in candidates.values()) == 382
    assert len(in_both) == 383 and {task_id for task_id in in_both if task_id not in ids} == {"55783887"}
    assert shared["1/evaluation/55783887", "2/evaluation/db695cfb"] == 5
