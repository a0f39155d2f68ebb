"""Compare the implementations of experts with the reference loop, and gradients with finite differences."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from provenlm.models.common.layers import moe_experts

SEEDED = torch.Generator().manual_seed(7)


def random_tensor(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=SEEDED, dtype=dtype).requires_grad_()


def random_topk_ids(tokens: int, n_experts: int, k: int) -> Tensor:
    """Return k different experts for each token."""
    return torch.rand(tokens, n_experts, generator=SEEDED).topk(k, -1).indices


def case(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return 13 tokens of width 8, 4 experts of width 12, top-2."""
    return (
        random_tensor(13, 8, dtype=dtype),
        random_topk_ids(13, 4, 2),
        random_tensor(13, 2, dtype=dtype),
        random_tensor(4, 24, 8, dtype=dtype),
        random_tensor(4, 8, 12, dtype=dtype),
    )


def values_and_gradients(impl: moe_experts.ExpertsImpl, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    out = impl(*tensors)
    return [out, *torch.autograd.grad(out.square().sum(), [t for t in tensors if t.requires_grad])]


def test_split_experts_equal_the_reference() -> None:
    tensors = case(torch.float64)
    for actual, expected in zip(
        values_and_gradients(moe_experts.experts_split, tensors),
        values_and_gradients(moe_experts.experts_reference, tensors),
        strict=True,
    ):
        assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_grouped_mm_experts_equal_the_reference() -> None:
    tensors = case(torch.float32)
    for actual, expected in zip(
        values_and_gradients(moe_experts.experts_grouped_mm, tensors),
        values_and_gradients(moe_experts.experts_reference, tensors),
        strict=True,
    ):
        assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_an_expert_without_tokens_gets_a_gradient_of_zero() -> None:
    states, _, weights, gate_up, down = case(torch.float64)
    topk_ids = torch.tensor([[0, 2]]).expand(13, 2)
    moe_experts.experts_split(states, topk_ids, weights, gate_up, down).sum().backward()
    assert gate_up.grad is not None
    assert gate_up.grad[1].abs().max() == 0
    assert gate_up.grad[0].abs().max() > 0


def test_a_permutation_sorts_rows_by_expert_and_back() -> None:
    permutation = moe_experts.plan_permutation(torch.tensor([[2, 0], [1, 2], [0, 1]]), 4)
    assert permutation.order_R.tolist() == [1, 4, 2, 5, 0, 3]
    assert permutation.inverse_R[permutation.order_R].tolist() == list(range(6))
    assert permutation.counts_E.tolist() == [2, 2, 2, 0]


def test_permute_has_the_gradient_of_finite_differences() -> None:
    permutation = moe_experts.plan_permutation(random_topk_ids(5, 3, 2), 3)
    assert gradcheck(lambda x: moe_experts.permute(x, permutation, 2), (random_tensor(5, 4),))


def test_unpermute_has_the_gradient_of_finite_differences() -> None:
    permutation = moe_experts.plan_permutation(random_topk_ids(5, 3, 2), 3)
    assert gradcheck(lambda x: moe_experts.unpermute(x, permutation), (random_tensor(10, 4),))


def test_experts_have_the_gradient_of_finite_differences() -> None:
    topk_ids = random_topk_ids(5, 3, 2)
    inputs = random_tensor(5, 4), random_tensor(5, 2), random_tensor(3, 12, 4), random_tensor(3, 4, 6)
    assert gradcheck(lambda x, w, up, down: moe_experts.experts_split(x, topk_ids, w, up, down), inputs)


def test_gradcheck_detects_a_wrong_backward() -> None:
    class Wrong(moe_experts._Permute):
        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
            return moe_experts._Permute.backward(ctx, *gradients)[0] / 2, None, None, None

    permutation = moe_experts.plan_permutation(random_topk_ids(5, 3, 2), 3)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(lambda x: Wrong.apply(x, permutation.order_R, permutation.inverse_R, 2), (random_tensor(5, 4),))


def test_swiglu_of_one_value_worked_out_by_hand() -> None:
    # x = 2; gate 1·2 = 2, up 3·2 = 6; silu(2) = 2 / (1 + e^-2) = 1.76159416; times 6 times down 0.5
    output = moe_experts.swiglu(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5]]))
    assert output.item() == pytest.approx(5.28478247, rel=1e-6)


@pytest.mark.parametrize(
    ("inner", "dtype", "fits"),
    [
        (1365, torch.float32, False),
        (1364, torch.float32, True),
        (1364, torch.bfloat16, False),
        (1368, torch.bfloat16, True),
        (1368, torch.float64, False),
    ],
)
def test_grouped_mm_needs_rows_of_sixteen_bytes(inner: int, dtype: torch.dtype, fits: bool) -> None:
    assert moe_experts.supports_grouped_mm(dtype, 512, inner) is fits


def test_cuda_uses_grouped_mm_only_where_supported() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert moe_experts.select_impl(cuda, torch.bfloat16, 512, 2048) is moe_experts.experts_grouped_mm
    assert moe_experts.select_impl(cuda, torch.bfloat16, 512, 1365) is moe_experts.experts_split
    assert moe_experts.select_impl(cpu, torch.bfloat16, 512, 2048) is moe_experts.experts_split


def test_under_autocast_experts_multiply_in_bfloat16() -> None:
    layer = moe_experts.Experts(4, 8, 12)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    states, topk_ids, weights, *_ = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(states, topk_ids, weights).dtype == torch.bfloat16
    assert layer(states, topk_ids, weights).dtype == torch.float32


def test_float32_matrices_get_the_gradients_of_rounded_ones_in_float32() -> None:
    states, topk_ids, weights, gate_up, down = case(torch.float32)
    narrow = [
        t.detach().bfloat16().requires_grad_() if t.is_floating_point() else t for t in (states, topk_ids, weights, gate_up, down)
    ]
    mixed = values_and_gradients(moe_experts.experts_split, (*narrow[:3], gate_up, down))
    rounded = values_and_gradients(moe_experts.experts_split, tuple(narrow))
    assert [t.dtype for t in mixed] == [torch.bfloat16] * 3 + [torch.float32] * 2
    for actual, expected in zip(mixed, rounded, strict=True):
        assert torch.equal(actual.float(), expected.float())


def test_a_second_backward_gives_the_same_bits() -> None:
    tensors = case(torch.float64)
    out = moe_experts.experts_split(*tensors)
    inputs = [t for t in tensors if t.requires_grad]
    first = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(out.sum(), inputs)))


def test_padding_makes_every_run_a_multiple() -> None:
    topk_ids = torch.tensor([[2, 0], [1, 2], [0, 1], [2, 1]])
    permutation = moe_experts.pad_to_multiple(moe_experts.plan_permutation(topk_ids, 4), topk_ids, 4)
    assert permutation.counts_E.tolist() == [4, 4, 4, 0]
    assert permutation.order_R.tolist() == [1, 4, 8, 8, 2, 5, 7, 8, 0, 3, 6, 8]  # 8 is the row of zeros
    assert permutation.order_R[permutation.inverse_R].tolist() == list(range(8))


def test_padded_permutations_have_the_gradient_of_finite_differences() -> None:
    topk_ids = random_topk_ids(5, 3, 2)
    permutation = moe_experts.pad_to_multiple(moe_experts.plan_permutation(topk_ids, 3), topk_ids, 4)
    assert gradcheck(lambda x: moe_experts.permute(x, permutation, 2), (random_tensor(5, 4),))
    assert gradcheck(lambda x: moe_experts.unpermute(x, permutation), (random_tensor(len(permutation.order_R), 4),))


def test_bfloat16_experts_on_padded_runs_equal_the_reference() -> None:
    states, topk_ids, weights, gate_up, down = case(torch.float32)
    narrow = [
        t.detach().bfloat16().requires_grad_() if t.is_floating_point() else t for t in (states, topk_ids, weights, gate_up, down)
    ]
    wide = [t.detach().float().requires_grad_() if t.is_floating_point() else t for t in narrow]
    for actual, expected in zip(
        values_and_gradients(moe_experts.experts_split, tuple(narrow)),
        values_and_gradients(moe_experts.experts_reference, tuple(wide)),
        strict=True,
    ):
        torch.testing.assert_close(actual.float(), expected, atol=0.03 * expected.abs().max().item(), rtol=0)
