"""The mixture-of-experts decoder: its shape, its causality, and its equality with Hugging Face's Mixtral."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.losses import moe_loss
from provenlm.models.moe.spec import SPEC

SMALL = MoEConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts=4,
    num_experts_per_tok=2,
    intermediate_size=24,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    dropout=0.0,
    load_balancing="layerwise",
    load_balancing_weight=0.0,
    z_loss_weight=0.0,
)
SEED_004 = replace(SMALL, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_experts=8, intermediate_size=2048)
FIRST_DRAFT = replace(
    SMALL,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=4,
    num_experts=32,
    intermediate_size=4096,
)
GRID = [
    *(
        replace(SMALL, num_key_value_heads=g, num_experts=e, num_experts_per_tok=k, tie_word_embeddings=t, num_hidden_layers=n)
        for g, (e, k), t, n in itertools.product((1, 2, 4), ((1, 1), (4, 2), (5, 3), (8, 1)), (True, False), (1, 3))
    ),
    *(
        replace(SMALL, hidden_size=48, num_attention_heads=h, num_key_value_heads=h, intermediate_size=f, rope_theta=th)
        for h, f, th in [(2, 40, 5e5), (6, 68, 100.0)]
    ),
]


@pytest.mark.parametrize(
    ("kv_heads", "n_experts", "tied", "layers"), [*itertools.product((1, 2, 4), (2, 5), (True, False), (1, 3))]
)
def test_the_closed_form_counts_what_is_built(beside, kv_heads, n_experts, tied, layers):
    settings = replace(
        SMALL, num_key_value_heads=kv_heads, num_experts=n_experts, tie_word_embeddings=tied, num_hidden_layers=layers
    )
    assert SPEC.num_params(settings, 61)["total"] == beside.counted(SPEC, settings, 61)


def test_a_bias_of_the_router_is_no_parameter(beside):
    assert beside.counted(SPEC, replace(SMALL, load_balancing="bias"), 61) == SPEC.num_params(SMALL, 61)["total"]


def test_the_parts_of_the_count_are_those_of_the_built_net():
    parts = {
        "embedding": "embed_tokens",
        "attention": "self_attn",
        "experts": "experts",
        "router": "gate.",
        "norms": "norm",
        "head": "lm_head",
    }
    settings = replace(SMALL, tie_word_embeddings=False)
    named = [(name, p.numel()) for name, p in SPEC.build(settings, 61).named_parameters()]
    by_part = {part: sum(n for name, n in named if mark in name) for part, mark in parts.items()}
    count = SPEC.num_params(settings, 61)
    assert by_part == {part: count[part] for part in parts}


def test_active_parameters_are_those_of_a_net_with_only_the_chosen_experts(beside):
    chosen_only = beside.counted(SPEC, replace(SMALL, num_experts=2), 61)
    unused_router_rows = SMALL.num_hidden_layers * 2 * SMALL.hidden_size
    assert SPEC.num_params(SMALL, 61)["active"] == chosen_only + unused_router_rows


def test_the_shape_of_seed_004_has_222_994_944_parameters_of_which_72_000_000_are_active(beside):
    count = SPEC.num_params(SEED_004, 32_000)
    assert (count["total"], count["active"]) == (222_994_944, 72_000_000)
    assert beside.counted(SPEC, SEED_004, 32_000) == 222_994_944


def test_its_first_draft_has_9_760_195_584_parameters(beside):
    assert SPEC.num_params(FIRST_DRAFT, 32_000)["total"] == 9_760_195_584
    assert beside.counted(SPEC, FIRST_DRAFT, 32_000) == 9_760_195_584


def test_a_later_token_does_not_move_an_earlier_logit(beside):
    model, before = beside.built(SPEC, SMALL).eval(), beside.tokens()
    after = before.clone()
    after[:, 9] = (after[:, 9] + 1) % 61
    moved = (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))
    assert moved[:9].max() < 1e-5
    assert moved[9] > 1e-2


def test_a_new_net_begins_near_the_loss_of_guessing(beside):
    torch.manual_seed(0)
    model, batch = SPEC.build(SMALL, 61), Batch(beside.tokens(), beside.tokens(2, 17).roll(-1, 1))
    assert moe_loss(model, IGNORE, batch)["cross_entropy"].item() == pytest.approx(math.log(61), abs=0.1)


def test_more_positions_than_the_context_are_refused(beside):
    with pytest.raises(ValueError, match="context of 64"):
        SPEC.logits(beside.built(SPEC, SMALL), beside.tokens(1, 65))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 30}, "even number"),
        ({"kv_heads": 3}, "must divide heads, 4"),
        ({"experts_per_token": 5}, "there are 4 experts"),
        ({"dropout": 1.0}, "below 1"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_impossible_shapes_are_refused_with_what_would_be_right(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_every_parameter_has_exactly_one_role():
    model = SPEC.build(replace(SMALL, tie_word_embeddings=False), 61)
    (objective,) = SPEC.objectives(model, IGNORE)
    by_role = [p for parameters in objective.param_groups.values() for p in parameters]
    assert len(by_role) == len(set(by_role)) == len(list(model.parameters()))
    assert all(p.ndim >= 2 for p in objective.param_groups["matrix"])
    assert {p.shape[0] for p in objective.param_groups["embedding"]} == {61}


def test_the_minimised_loss_is_the_sum_of_its_weighted_terms(beside):
    model, batch = (
        beside.built(SPEC, replace(SMALL, load_balancing_weight=0.5, z_loss_weight=0.25)),
        Batch(beside.tokens(), beside.tokens().roll(-1, 1)),
    )
    terms = moe_loss(model, IGNORE, batch)
    expected = terms["cross_entropy"] + 0.5 * terms["balance"] + 0.25 * terms["router_z"]
    assert terms["loss"].item() == pytest.approx(expected.item())


def test_ignored_targets_carry_no_loss(beside):
    model, targets = beside.built(SPEC, SMALL), beside.tokens().roll(-1, 1)
    kept = targets.clone()
    kept[:, 5:] = IGNORE
    assert moe_loss(model, IGNORE, Batch(beside.tokens(), kept))["cross_entropy"].item() == pytest.approx(
        moe_loss(model, IGNORE, Batch(beside.tokens()[:, :5], targets[:, :5]))["cross_entropy"].item(), rel=1e-5
    )


def test_the_probe_sees_a_collapsed_router(beside):
    model = beside.built(SPEC, SMALL)
    with torch.no_grad():
        for block in model.layers:
            block.mlp.gate.weight.zero_()
    figures = SPEC.eval_metrics(model, beside.tokens())
    # equal probabilities: top-2 takes the same two of four experts for every token
    assert figures["load_max"][0] == 2.0
    assert figures["load_min"][0] == 0.0
    assert figures["dead_experts"][0] == 4
    assert figures["router_entropy"][0] == pytest.approx(1.0)


@pytest.mark.parametrize("settings", GRID, ids=str)
def test_mixtral_of_hugging_face_agrees_on_logits_losses_and_gradients(beside, settings):
    settings = replace(settings, load_balancing="joint", load_balancing_weight=0.02)
    ours, ids = beside.built(SPEC, settings), beside.tokens()
    theirs = beside.theirs(SPEC, settings, ours, output_router_logits=True)
    their, our = theirs(ids, labels=ids), beside.losses(SPEC, ours, ids)
    torch.testing.assert_close(SPEC.logits(ours, ids), their.logits, atol=3e-5, rtol=1e-4)
    assert our["cross_entropy"].item() == pytest.approx((their.loss - 0.02 * their.aux_loss).item(), rel=1e-5)
    assert our["balance"].item() == pytest.approx(their.aux_loss.item(), rel=1e-5)
    assert our["loss"].item() == pytest.approx(their.loss.item(), rel=1e-5)
    our["loss"].backward()
    their.loss.backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, gradient in beside.gradients(SPEC, settings, ours).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 + 1e-4 * expected[name].abs().max().item(), rtol=0, msg=name)


@pytest.mark.parametrize("settings", GRID[::7], ids=str)
def test_the_layerwise_balance_loss_is_the_mean_of_mixtrals_own_loss_of_each_layer(beside, settings):
    """The form of the Switch Transformer (arXiv 2101.03961), from the function that Mixtral takes the other from."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    settings = replace(settings, load_balancing="layerwise", load_balancing_weight=0.02)
    ours, ids = beside.built(SPEC, settings), beside.tokens()
    routers = beside.theirs(SPEC, settings, ours)(ids, output_router_logits=True).router_logits
    by_layer = [load_balancing_loss_func((router,), settings.experts, settings.experts_per_token) for router in routers]
    assert beside.losses(SPEC, ours, ids)["balance"].item() == pytest.approx(torch.stack(by_layer).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings", [SMALL, GRID[0], GRID[-1], replace(SMALL, tie_word_embeddings=False, num_hidden_layers=3)], ids=str
)
@pytest.mark.parametrize(("rows", "length"), [(1, 16), (3, 24)])
def test_flops_by_formula_are_those_that_torch_counts(beside, settings, rows, length):
    assert rows * length * SPEC.flops_per_token(settings, 61, length) == beside.flops(SPEC, settings, rows, length)


def test_a_token_of_the_shape_of_seed_004_costs_532_611_072_flops_at_2048_positions():
    """6 · 71,991,296 + 12 · 8 · 512 · 2048."""
    assert SPEC.flops_per_token(SEED_004, 32_000, 2048) == 532_611_072
