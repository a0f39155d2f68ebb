"""Experts: every way of dispatch against the plain loop, and its gradients against finite differences."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from provenlm.models.common.layers import moe_experts

SEEDED = torch.Generator().manual_seed(7)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=SEEDED, dtype=dtype).requires_grad_()


def choice(tokens: int, n_experts: int, k: int) -> Tensor:
    """k different experts for each token."""
    return torch.rand(tokens, n_experts, generator=SEEDED).topk(k, -1).indices


def case(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """13 tokens of width 8, 4 experts of inner width 12, top-2."""
    return (
        drawn(13, 8, dtype=dtype),
        choice(13, 4, 2),
        drawn(13, 2, dtype=dtype),
        drawn(4, 24, 8, dtype=dtype),
        drawn(4, 8, 12, dtype=dtype),
    )


def values_and_gradients(way: moe_experts.ExpertsImpl, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    out = way(*tensors)
    return [out, *torch.autograd.grad(out.square().sum(), [t for t in tensors if t.requires_grad])]


def test_sorted_experts_say_and_learn_what_the_loop_does() -> None:
    tensors = case(torch.float64)
    for ours, loop in zip(
        values_and_gradients(moe_experts.experts_split, tensors),
        values_and_gradients(moe_experts.experts_reference, tensors),
        strict=True,
    ):
        assert torch.allclose(ours, loop, rtol=1e-12, atol=1e-12)


def test_grouped_products_say_and_learn_what_the_loop_does() -> None:
    tensors = case(torch.float32)
    for ours, loop in zip(
        values_and_gradients(moe_experts.experts_grouped_mm, tensors),
        values_and_gradients(moe_experts.experts_reference, tensors),
        strict=True,
    ):
        assert torch.allclose(ours, loop, rtol=1e-4, atol=1e-4)


def test_an_expert_without_tokens_gets_a_gradient_of_zero() -> None:
    states, _, weights, gate_up, down = case(torch.float64)
    chosen = torch.tensor([[0, 2]]).expand(13, 2)
    moe_experts.experts_split(states, chosen, weights, gate_up, down).sum().backward()
    assert gate_up.grad is not None
    assert gate_up.grad[1].abs().max() == 0
    assert gate_up.grad[0].abs().max() > 0


def test_a_plan_sorts_rows_by_expert_and_back() -> None:
    planned = moe_experts.plan_permutation(torch.tensor([[2, 0], [1, 2], [0, 1]]), 4)
    assert planned.order_R.tolist() == [1, 4, 2, 5, 0, 3]
    assert planned.inverse_R[planned.order_R].tolist() == list(range(6))
    assert planned.counts_E.tolist() == [2, 2, 2, 0]


def test_permute_has_the_gradient_of_finite_differences() -> None:
    planned = moe_experts.plan_permutation(choice(5, 3, 2), 3)
    assert gradcheck(lambda x: moe_experts.permute(x, planned, 2), (drawn(5, 4),))


def test_unpermute_has_the_gradient_of_finite_differences() -> None:
    planned = moe_experts.plan_permutation(choice(5, 3, 2), 3)
    assert gradcheck(lambda x: moe_experts.unpermute(x, planned), (drawn(10, 4),))


def test_experts_have_the_gradient_of_finite_differences() -> None:
    chosen = choice(5, 3, 2)
    inputs = drawn(5, 4), drawn(5, 2), drawn(3, 12, 4), drawn(3, 4, 6)
    assert gradcheck(lambda x, w, up, down: moe_experts.experts_split(x, chosen, w, up, down), inputs)


def test_the_check_by_finite_differences_catches_a_wrong_backward() -> None:
    class Wrong(moe_experts._Permute):
        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
            return moe_experts._Permute.backward(ctx, *gradients)[0] / 2, None, None, None

    planned = moe_experts.plan_permutation(choice(5, 3, 2), 3)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(lambda x: Wrong.apply(x, planned.order_R, planned.inverse_R, 2), (drawn(5, 4),))


def test_swiglu_of_one_by_hand() -> None:
    # x = 2; gate 1·2 = 2, up 3·2 = 6; silu(2) = 2 / (1 + e^-2) = 1.76159416; times 6 times down 0.5
    said = moe_experts.swiglu(torch.tensor([[2.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5]]))
    assert said.item() == pytest.approx(5.28478247, rel=1e-6)


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
def test_grouped_products_want_rows_of_sixteen_bytes(inner: int, dtype: torch.dtype, fits: bool) -> None:
    assert moe_experts.supports_grouped_mm(dtype, 512, inner) is fits


def test_cuda_takes_the_grouped_product_only_where_it_fits() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert moe_experts.select_impl(cuda, torch.bfloat16, 512, 2048) is moe_experts.experts_grouped_mm
    assert moe_experts.select_impl(cuda, torch.bfloat16, 512, 1365) is moe_experts.experts_split
    assert moe_experts.select_impl(cpu, torch.bfloat16, 512, 2048) is moe_experts.experts_split


def test_under_autocast_the_experts_multiply_in_the_narrow_type() -> None:
    layer = moe_experts.Experts(4, 8, 12)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    states, chosen, weights, *_ = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(states, chosen, weights).dtype == torch.bfloat16
    assert layer(states, chosen, weights).dtype == torch.float32


def test_matrices_wider_than_the_states_get_the_gradient_of_rounded_ones_in_their_own_type() -> None:
    states, chosen, weights, gate_up, down = case(torch.float32)
    narrow = [
        t.detach().bfloat16().requires_grad_() if t.is_floating_point() else t for t in (states, chosen, weights, gate_up, down)
    ]
    mixed = values_and_gradients(moe_experts.experts_split, (*narrow[:3], gate_up, down))
    rounded = values_and_gradients(moe_experts.experts_split, tuple(narrow))
    assert [t.dtype for t in mixed] == [torch.bfloat16] * 3 + [torch.float32] * 2
    for ours, theirs in zip(mixed, rounded, strict=True):
        assert torch.equal(ours.float(), theirs.float())


def test_a_recomputed_backward_gives_the_bits_of_a_kept_one() -> None:
    tensors = case(torch.float64)
    out = moe_experts.experts_split(*tensors)
    wanted = [t for t in tensors if t.requires_grad]
    first = torch.autograd.grad(out.sum(), wanted, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(out.sum(), wanted)))


def test_a_filled_plan_gives_every_expert_a_run_of_a_multiple() -> None:
    chosen = torch.tensor([[2, 0], [1, 2], [0, 1], [2, 1]])
    planned = moe_experts.pad_to_multiple(moe_experts.plan_permutation(chosen, 4), chosen, 4)
    assert planned.counts_E.tolist() == [4, 4, 4, 0]
    assert planned.order_R.tolist() == [1, 4, 8, 8, 2, 5, 7, 8, 0, 3, 6, 8]  # 8 is the row of zeros
    assert planned.order_R[planned.inverse_R].tolist() == list(range(8))


def test_moves_by_a_filled_plan_have_the_gradient_of_finite_differences() -> None:
    chosen = choice(5, 3, 2)
    planned = moe_experts.pad_to_multiple(moe_experts.plan_permutation(chosen, 3), chosen, 4)
    assert gradcheck(lambda x: moe_experts.permute(x, planned, 2), (drawn(5, 4),))
    assert gradcheck(lambda x: moe_experts.unpermute(x, planned), (drawn(len(planned.order_R), 4),))


def test_narrow_experts_on_filled_runs_say_and_learn_what_the_loop_does() -> None:
    states, chosen, weights, gate_up, down = case(torch.float32)
    narrow = [
        t.detach().bfloat16().requires_grad_() if t.is_floating_point() else t for t in (states, chosen, weights, gate_up, down)
    ]
    wide = [t.detach().float().requires_grad_() if t.is_floating_point() else t for t in narrow]
    for ours, loop in zip(
        values_and_gradients(moe_experts.experts_split, tuple(narrow)),
        values_and_gradients(moe_experts.experts_reference, tuple(wide)),
        strict=True,
    ):
        torch.testing.assert_close(ours.float(), loop, atol=0.03 * loop.abs().max().item(), rtol=0)
