"""The gated half of a dense block: its value and gradients by torch's own rules, and what it keeps for the backward pass."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from provenlm.models.common.layers.feed_forward import SwiGLU

HIDDEN, INNER, TOKENS = 6, 10, 8


@pytest.fixture
def layer() -> SwiGLU:
    torch.manual_seed(0)
    return SwiGLU(HIDDEN, INNER)


def plain(layer: SwiGLU, states_BTD: Tensor) -> Tensor:
    out: Tensor = layer.down_proj(F.silu(layer.gate_proj(states_BTD)) * layer.up_proj(states_BTD))
    return out


def gradients(said_BTD: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(said_BTD.square().sum(), of)


def test_it_says_and_learns_what_the_formula_does(layer: SwiGLU) -> None:
    layer.double()
    states_BTD = torch.randn(2, 4, HIDDEN, dtype=torch.float64, requires_grad=True)
    of = (states_BTD, *layer.parameters())
    ours, theirs = layer(states_BTD)[0], plain(layer, states_BTD)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(gradients(ours, *of), gradients(theirs, *of), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_under_autocast_products_are_in_its_type_and_gradients_in_that_of_the_weights(layer: SwiGLU) -> None:
    states_BTD = torch.randn(2, 4, HIDDEN)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = layer(states_BTD)[0], plain(layer, states_BTD)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    (gradient,) = gradients(ours.float(), layer.up_proj.weight)
    assert gradient.dtype == torch.float32


def test_a_frozen_matrix_is_given_no_gradient_and_the_others_theirs(layer: SwiGLU) -> None:
    layer.gate_proj.weight.requires_grad = False
    layer(torch.randn(2, 4, HIDDEN))[0].sum().backward()
    assert layer.gate_proj.weight.grad is None
    assert layer.up_proj.weight.grad is not None


def test_it_keeps_two_of_the_four_wide_tensors_that_torch_would(layer: SwiGLU) -> None:
    def kept(run) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.shape[-1] == INNER and tensor.shape[0] != HIDDEN:
                storages[tensor.data_ptr()] = tensor.numel()
            return tensor

        states_BTD = torch.randn(2, TOKENS // 2, HIDDEN, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            held = run(states_BTD)
        assert held is not None
        return sum(storages.values())

    assert kept(lambda states_BTD: layer(states_BTD)[0]) == 2 * TOKENS * INNER
    assert kept(lambda states_BTD: plain(layer, states_BTD)) == 4 * TOKENS * INNER
