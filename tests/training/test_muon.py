"""Test that Muon steps are orthogonal, matrix by matrix."""

import pytest
import torch
from torch import Tensor, nn

from provenlm.training.optim.muon import Muon, orthogonalize


def random_matrix(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 24, 8), (3, 8, 24), (2, 192, 96)])
def test_all_singular_values_of_a_step_are_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.linalg.svdvals(orthogonalize(random_matrix(*shape).to(dtype)).float())
    assert values.min() > 0.7
    assert values.max() < 1.3


def test_a_step_keeps_the_directions_of_the_gradient() -> None:
    gradient = random_matrix(1, 12, 8)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.allclose(orthogonalize(gradient), left @ right, atol=0.3)


def test_bfloat16_steps_are_close_to_float32() -> None:
    gradient = random_matrix(2, 96, 192)
    narrow, wide = orthogonalize(gradient.bfloat16()).float(), orthogonalize(gradient)
    cosine = (narrow * wide).sum((-2, -1)) / (narrow.norm(dim=(-2, -1)) * wide.norm(dim=(-2, -1)))
    assert cosine.min() > 0.999


def test_every_expert_is_orthogonalized_separately() -> None:
    experts = nn.Parameter(torch.zeros(4, 6, 10))
    experts.grad = random_matrix(4, 6, 10) * torch.tensor([1e-3, 1.0, 1.0, 1e3])[:, None, None]
    Muon([experts], 1.0, 0.0, 0.0).step()
    values = torch.linalg.svdvals(experts.detach())
    assert values.min() > 0.7
    assert values.max() < 1.3


def test_parameters_of_one_shape_are_updated_as_if_alone() -> None:
    gradients = [random_matrix(5, 7), random_matrix(5, 7).flip(0)]
    together, alone = [nn.Parameter(torch.ones(5, 7)) for _ in range(2)], [nn.Parameter(torch.ones(5, 7)) for _ in range(2)]
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    Muon(together, 0.1, 0.9, 0.01).step()
    for parameter in alone:
        Muon([parameter], 0.1, 0.9, 0.01).step()
    for joint, single in zip(together, alone, strict=True):
        assert torch.allclose(joint, single, atol=1e-3)  # the iteration may be in bfloat16


def test_a_tall_matrix_steps_further_by_the_root_of_its_aspect() -> None:
    tall = nn.Parameter(torch.zeros(32, 8))
    tall.grad = random_matrix(32, 8)
    Muon([tall], 1.0, 0.0, 0.0).step()
    assert torch.linalg.svdvals(tall.detach()).mean().item() == pytest.approx(2.0, abs=0.3)


def test_weight_decay_applies_with_a_zero_gradient() -> None:
    parameter = nn.Parameter(torch.full((2, 2), 4.0))
    parameter.grad = torch.zeros(2, 2)
    Muon([parameter], 0.5, 0.9, 0.1).step()
    assert parameter.detach().flatten().tolist() == pytest.approx([4.0 * (1 - 0.5 * 0.1)] * 4)
