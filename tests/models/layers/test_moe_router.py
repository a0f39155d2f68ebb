"""Check routing and router losses against values worked out by hand and finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from provenlm.models.common.layers.moe_router import Router, Routing, global_load_balancing_loss, load_balancing_loss, z_loss


def routing(topk_ids: list[list[int]], logits: list[list[float]]) -> Routing:
    logits_NE = torch.tensor(logits, dtype=torch.float64)
    probabilities_NE = logits_NE.softmax(-1)
    topk_ids_NK = torch.tensor(topk_ids)
    return Routing(topk_ids_NK, probabilities_NE.gather(1, topk_ids_NK), probabilities_NE, logits_NE)


def test_weights_are_the_renormalised_probabilities_of_the_top_k() -> None:
    router = Router(3, 3, 2, use_expert_bias=False)
    with torch.no_grad():
        router.weight.copy_(torch.eye(3))
    logits = torch.tensor([[math.log(5.0), math.log(2.0), math.log(3.0)]])
    topk_ids, weights, probabilities, _ = router(logits)
    assert topk_ids.tolist() == [[0, 2]]
    assert weights[0].tolist() == pytest.approx([5 / 8, 3 / 8])
    assert probabilities[0].tolist() == pytest.approx([0.5, 0.2, 0.3])


def test_an_even_load_has_a_loss_of_k() -> None:
    even = routing([[0, 1], [2, 3]], [[0.0] * 4] * 2)
    assert load_balancing_loss(even).item() == pytest.approx(2.0)


def test_all_load_on_one_expert_has_a_loss_of_num_experts() -> None:
    collapsed = routing([[0], [0]], [[50.0, 0.0, 0.0, 0.0]] * 2)
    assert load_balancing_loss(collapsed).item() == pytest.approx(4.0)


def test_the_load_balancing_loss_counts_the_routed_tokens() -> None:
    # probabilities even, but both tokens went to expert 0: f = (1, 0), P = (1/2, 1/2), 2 · 1/2 = 1;
    # probabilities (3/4, 1/4) with the same dispatch: 2 · 3/4
    assert load_balancing_loss(routing([[0], [0]], [[0.0, 0.0]] * 2)).item() == pytest.approx(1.0)
    assert load_balancing_loss(routing([[0], [0]], [[math.log(3.0), 0.0]] * 2)).item() == pytest.approx(1.5)


def test_the_global_loss_lets_layers_balance_each_other() -> None:
    first, second = routing([[0]], [[math.log(3.0), 0.0]]), routing([[1]], [[0.0, math.log(3.0)]])
    assert global_load_balancing_loss([first, second]).item() == pytest.approx(1.0)
    assert load_balancing_loss(first).item() == pytest.approx(1.5)


def test_the_z_loss_is_the_mean_square_of_the_log_partition() -> None:
    # log(1 + 1) and log(3 + 1), squared, averaged
    assert z_loss(routing([[0], [0]], [[0.0, 0.0], [math.log(3.0), 0.0]])).item() == pytest.approx(
        (math.log(2) ** 2 + math.log(4) ** 2) / 2
    )


def test_the_router_and_its_losses_have_the_gradient_of_finite_differences() -> None:
    router = Router(4, 3, 2, use_expert_bias=False).double()
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(3))
    states = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()

    def outputs(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        routed = router(states)
        return routed.weights_NK, load_balancing_loss(routed), z_loss(routed)

    assert gradcheck(outputs, (states,))


def test_the_router_computes_in_float32_under_autocast() -> None:
    router = Router(4, 3, 2, use_expert_bias=False)
    torch.nn.init.normal_(router.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert router(torch.randn(2, 4)).logits_NE.dtype == torch.float32


def test_the_expert_bias_changes_the_selection_not_the_weights() -> None:
    router = Router(3, 3, 2, use_expert_bias=True)
    with torch.no_grad():
        router.weight.copy_(torch.eye(3))
        router.bias_E.copy_(torch.tensor([0.0, 0.15, 0.0]))
    logits = torch.tensor([[math.log(5.0), math.log(2.0), math.log(3.0)]])
    topk_ids, weights, _, _ = router(logits)  # 0.5, 0.35, 0.3 where it is topk_ids
    assert topk_ids.tolist() == [[0, 1]]
    assert weights[0].tolist() == pytest.approx([5 / 7, 2 / 7])


def test_an_expert_bias_of_zero_has_no_effect() -> None:
    torch.manual_seed(0)
    plain, biased, states = Router(8, 5, 3, use_expert_bias=False), Router(8, 5, 3, use_expert_bias=True), torch.randn(50, 8)
    torch.nn.init.normal_(plain.weight)
    biased.load_state_dict({**plain.state_dict(), "bias_E": torch.zeros(5)})
    for expected, actual in zip(plain(states), biased(states), strict=True):
        assert torch.equal(expected, actual)


def test_the_expert_bias_moves_by_the_rate_towards_an_even_load() -> None:
    router = Router(3, 4, 1, use_expert_bias=True)
    for topk_ids in ([[0], [0], [1]], [[0], [2], [2], [1], [3]]):
        router.accumulate_load(routing(topk_ids, [[0.0] * 4] * len(topk_ids)))
    router.update_expert_bias(0.01)  # loads 3, 2, 2, 1, of which the mean is 2
    assert router.bias_E.tolist() == pytest.approx([-0.01, 0.0, 0.0, 0.01])
    router.update_expert_bias(0.01)  # no load since the last update
    assert router.bias_E.tolist() == pytest.approx([-0.01, 0.0, 0.0, 0.01])


def test_the_expert_bias_is_in_the_state_dict_and_the_load_is_not() -> None:
    assert set(Router(3, 4, 1, use_expert_bias=True).state_dict()) == {"weight", "bias_E"}
    assert set(Router(3, 4, 1, use_expert_bias=False).state_dict()) == {"weight"}
