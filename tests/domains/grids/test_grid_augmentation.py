"""Test the augmentation of grid pairs against numpy's own transpositions, cell by cell."""

import numpy as np
import pytest
import torch

from provenlm.domains.grids.tokenize import augmentation
from tests.models.grid_cases import make_batch, random_batch, random_grid

FREE = torch.zeros(3, 10, dtype=torch.bool)
FREE[:, 0] = True


def turned(grid, symmetry, colors):
    """Return the view of a grid by numpy."""
    grid = np.asarray(colors)[np.array(grid)]
    grid = grid.T if symmetry & 1 else grid
    grid = grid[::-1] if symmetry & 2 else grid
    return grid[:, ::-1] if symmetry & 4 else grid


def cell_set(batch):
    """Return the cells of the first sequence without their order."""
    fields = (batch.inputs_BT, batch.targets_BT, batch.rows_BT, batch.columns_BT, batch.planes_BT)
    return sorted(zip(*(field[0].tolist() for field in fields), strict=True))


@pytest.mark.parametrize("symmetry", range(8))
@pytest.mark.parametrize("sizes", [((2, 3), (2, 3)), ((2, 3), (4, 1)), ((3, 3), (2, 2)), ((1, 1), (3, 5))])
def test_a_view_has_the_cells_of_the_turned_grids(symmetry, sizes):
    grid, output = (random_grid(*size, seed) for seed, size in enumerate(sizes))
    colors = [0, 3, 1, 2, 4, 5, 9, 7, 8, 6]
    in_place = [sizes[0] == sizes[1]]
    view = augmentation.apply_views(make_batch([(grid, output)], width=20), torch.tensor([symmetry]), torch.tensor([colors]))
    expected = make_batch([tuple(turned(g, symmetry, colors).tolist() for g in (grid, output))], width=20, in_place=in_place)
    assert cell_set(view) == cell_set(expected)
    assert view.symmetries_B.tolist() == [symmetry]


def test_sequences_of_a_batch_are_changed_independently():
    batch, symmetries_B = random_batch(), torch.tensor([3, 6, 5])
    colors_BC = torch.stack([torch.arange(10).roll(n) for n in range(3)])
    together = augmentation.apply_views(batch, symmetries_B, colors_BC)
    for b in range(3):
        one = slice(b, b + 1)
        alone = augmentation.apply_views(batch.select(one), symmetries_B[one], colors_BC[one])
        assert cell_set(alone) == cell_set(together.select(one))


def test_a_permutation_keeps_the_fixed_colours():
    is_fixed_BC = torch.rand(200, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    _, colors_BC = augmentation.draw_views(is_fixed_BC, np.arange(200), seed=1)
    assert torch.equal(colors_BC.sort(-1).values, torch.arange(10).expand(200, 10))
    assert torch.equal(colors_BC[is_fixed_BC], torch.arange(10).expand(200, 10)[is_fixed_BC])
    assert (colors_BC != torch.arange(10)).any()


def test_all_symmetries_and_permutations_are_equally_likely():
    is_fixed_BC = torch.ones(1, 10, dtype=torch.bool).repeat(4800, 1)
    is_fixed_BC[:, [2, 5, 7]] = False
    symmetries_B, colors_BC = augmentation.draw_views(is_fixed_BC, np.arange(4800), seed=0)
    views = [(s, *row) for s, row in zip(symmetries_B.tolist(), colors_BC[:, [2, 5, 7]].tolist(), strict=True)]
    counts = np.unique(views, axis=0, return_counts=True)[1]
    assert len(counts) == 8 * 6
    assert 60 < counts.min() <= counts.max() < 145  # 100 expected


def test_the_view_of_a_sequence_depends_on_its_number_alone():
    augment = augmentation.build_augmentation(FREE, seed=4).apply
    batch = random_batch()
    whole = augment(batch, np.array([10, 11, 12]))
    for b in range(3):
        alone = augment(batch.select(slice(b, b + 1)), np.array([10 + b]))
        assert cell_set(alone) == cell_set(whole.select(slice(b, b + 1)))
    other = augment(batch, np.array([13, 14, 15]))
    assert not torch.equal(other.inputs_BT, whole.inputs_BT)
    assert not torch.equal(
        augmentation.build_augmentation(FREE, seed=5).apply(batch, np.array([10, 11, 12])).inputs_BT, whole.inputs_BT
    )


def test_the_number_of_variants_counts_symmetries_and_permutations():
    is_fixed_NC = FREE.clone()
    is_fixed_NC[:, 1:7] = True
    assert augmentation.build_augmentation(is_fixed_NC, 0).num_variants == 8 * 6
    colors_only = augmentation.build_augmentation(is_fixed_NC, 0, use_symmetries=False)
    assert colors_only.num_variants == 6
    batch = random_batch()
    view = colors_only.apply(batch, np.arange(3))
    assert torch.equal(view.rows_BT, batch.rows_BT)


def test_a_batch_under_a_symmetry_is_refused():
    with pytest.raises(ValueError, match=r"a batch to augment must have symmetry 0, got \[0, 3, 7\]"):
        augmentation.apply_views(
            random_batch(symmetries=(0, 3, 7)), torch.zeros(3, dtype=torch.int64), torch.arange(10).repeat(3, 1)
        )
