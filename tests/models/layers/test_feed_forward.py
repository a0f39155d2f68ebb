"""Compare SwiGLU with torch's autograd, and count what it saves for the backward pass."""

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


def reference(layer: SwiGLU, states_BTD: Tensor) -> Tensor:
    out: Tensor = layer.down_proj(F.silu(layer.gate_proj(states_BTD)) * layer.up_proj(states_BTD))
    return out


def gradients(out_BTD: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out_BTD.square().sum(), inputs)


def test_output_and_gradients_equal_those_of_the_formula(layer: SwiGLU) -> None:
    layer.double()
    states_BTD = torch.randn(2, 4, HIDDEN, dtype=torch.float64, requires_grad=True)
    inputs = (states_BTD, *layer.parameters())
    actual, expected = layer(states_BTD)[0], reference(layer, states_BTD)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for actual_grad, expected_grad in zip(gradients(actual, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(actual_grad, expected_grad, rtol=1e-12, atol=1e-12)


def test_under_autocast_outputs_are_bfloat16_and_gradients_float32(layer: SwiGLU) -> None:
    states_BTD = torch.randn(2, 4, HIDDEN)
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = layer(states_BTD)[0], reference(layer, states_BTD)
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)
    (gradient,) = gradients(actual.float(), layer.up_proj.weight)
    assert gradient.dtype == torch.float32


def test_a_frozen_matrix_is_given_no_gradient_and_the_others_expected(layer: SwiGLU) -> None:
    layer.gate_proj.weight.requires_grad = False
    layer(torch.randn(2, 4, HIDDEN))[0].sum().backward()
    assert layer.gate_proj.weight.grad is None
    assert layer.up_proj.weight.grad is not None


def test_it_saves_two_of_the_four_tensors_that_torch_saves(layer: SwiGLU) -> None:
    def count_saved(run) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.shape[-1] == INNER and tensor.shape[0] != HIDDEN:
                storages[tensor.data_ptr()] = tensor.numel()
            return tensor

        states_BTD = torch.randn(2, TOKENS // 2, HIDDEN, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = run(states_BTD)
        assert output is not None
        return sum(storages.values())

    assert count_saved(lambda states_BTD: layer(states_BTD)[0]) == 2 * TOKENS * INNER
    assert count_saved(lambda states_BTD: reference(layer, states_BTD)) == 4 * TOKENS * INNER
