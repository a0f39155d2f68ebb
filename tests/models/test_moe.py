"""Test the mixture-of-experts decoder: shape, causality, and equality with Hugging Face's Mixtral."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from provenlm.models.common.objective import IGNORE, TokenBatch
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
    load_balancing="aux_loss",
    load_balancing_weight=0.0,
    z_loss_weight=0.0,
)
CLAIMED_200M = replace(SMALL, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_experts=8, intermediate_size=2048)
CLAIMED_DRAFT = replace(
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
    ("num_kv_heads", "num_experts", "tied", "num_layers"), [*itertools.product((1, 2, 4), (2, 5), (True, False), (1, 3))]
)
def test_the_closed_form_counts_the_built_parameters(harness, num_kv_heads, num_experts, tied, num_layers):
    config = replace(
        SMALL, num_key_value_heads=num_kv_heads, num_experts=num_experts, tie_word_embeddings=tied, num_hidden_layers=num_layers
    )
    assert SPEC.num_params(config, 61)["total"] == harness.count_params(SPEC, config, 61)


def test_the_expert_bias_is_not_a_parameter(harness):
    assert harness.count_params(SPEC, replace(SMALL, load_balancing="bias"), 61) == SPEC.num_params(SMALL, 61)["total"]


def test_the_parts_of_the_count_match_the_built_model():
    parts = {
        "embedding": "embed_tokens",
        "attention": "self_attn",
        "experts": "experts",
        "router": "gate.",
        "norms": "norm",
        "head": "lm_head",
    }
    config = replace(SMALL, tie_word_embeddings=False)
    named = [(name, p.numel()) for name, p in SPEC.build(config, 61).named_parameters()]
    by_part = {part: sum(n for name, n in named if mark in name) for part, mark in parts.items()}
    count = SPEC.num_params(config, 61)
    assert by_part == {part: count[part] for part in parts}


def test_active_parameters_are_those_of_a_model_with_top_k_experts(harness):
    active_only = harness.count_params(SPEC, replace(SMALL, num_experts=2), 61)
    unused_router_rows = SMALL.num_hidden_layers * 2 * SMALL.hidden_size
    assert SPEC.num_params(SMALL, 61)["active"] == active_only + unused_router_rows


def test_the_claimed_200m_shape_has_222_994_944_parameters(harness):
    count = SPEC.num_params(CLAIMED_200M, 32_000)
    assert (count["total"], count["active"]) == (222_994_944, 72_000_000)
    assert harness.count_params(SPEC, CLAIMED_200M, 32_000) == 222_994_944


def test_the_claimed_draft_shape_has_9_760_195_584_parameters(harness):
    assert SPEC.num_params(CLAIMED_DRAFT, 32_000)["total"] == 9_760_195_584
    assert harness.count_params(SPEC, CLAIMED_DRAFT, 32_000) == 9_760_195_584


def test_a_later_token_does_not_change_an_earlier_logit(harness):
    model, before = harness.build_random(SPEC, SMALL).eval(), harness.tokens()
    after = before.clone()
    after[:, 9] = (after[:, 9] + 1) % 61
    change = (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))
    assert change[:9].max() < 1e-5
    assert change[9] > 1e-2


def test_the_initial_loss_is_near_that_of_guessing(harness):
    torch.manual_seed(0)
    model, batch = SPEC.build(SMALL, 61), TokenBatch(harness.tokens(), harness.tokens(2, 17).roll(-1, 1))
    assert moe_loss(model, IGNORE, batch)["cross_entropy"].item() == pytest.approx(math.log(61), abs=0.1)


def test_a_sequence_longer_than_the_limit_is_refused(harness):
    with pytest.raises(ValueError, match="must be <= max_position_embeddings = 64, got 65"):
        SPEC.logits(harness.build_random(SPEC, SMALL), harness.tokens(1, 65))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 30}, r"hidden_size: must be a multiple of 2 \* num_attention_heads = 8, got 30"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads = 4, got 3"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok: must be <= num_experts = 4, got 5"),
        ({"dropout": 1.0}, "dropout: must be >= 0 and < 1, got 1.0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be >= 1, got 0"),
        ({"z_loss_weight": -0.1}, "z_loss_weight: must be >= 0, got -0.1"),
    ],
)
def test_an_invalid_config_is_refused_with_the_allowed_values(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_every_parameter_is_in_exactly_one_group():
    model = SPEC.build(replace(SMALL, tie_word_embeddings=False), 61)
    (objective,) = SPEC.objectives(model, IGNORE)
    grouped = [p for parameters in objective.param_groups.values() for p in parameters]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    assert all(p.ndim >= 2 for p in objective.param_groups["matrix"])
    assert {p.shape[0] for p in objective.param_groups["embedding"]} == {61}


def test_the_minimised_loss_is_the_sum_of_its_weighted_terms(harness):
    model, batch = (
        harness.build_random(SPEC, replace(SMALL, load_balancing_weight=0.5, z_loss_weight=0.25)),
        TokenBatch(harness.tokens(), harness.tokens().roll(-1, 1)),
    )
    terms = moe_loss(model, IGNORE, batch)
    expected = terms["cross_entropy"] + 0.5 * terms["load_balancing"] + 0.25 * terms["router_z"]
    assert terms["loss"].item() == pytest.approx(expected.item())


def test_ignored_targets_carry_no_loss(harness):
    model, targets = harness.build_random(SPEC, SMALL), harness.tokens().roll(-1, 1)
    masked = targets.clone()
    masked[:, 5:] = IGNORE
    assert moe_loss(model, IGNORE, TokenBatch(harness.tokens(), masked))["cross_entropy"].item() == pytest.approx(
        moe_loss(model, IGNORE, TokenBatch(harness.tokens()[:, :5], targets[:, :5]))["cross_entropy"].item(), rel=1e-5
    )


def test_expert_metrics_show_a_collapsed_router(harness):
    model = harness.build_random(SPEC, SMALL)
    with torch.no_grad():
        for block in model.layers:
            block.mlp.gate.weight.zero_()
    metrics = SPEC.eval_metrics(model, harness.tokens())
    # equal probabilities: top-2 takes the same two of four experts for every token
    assert metrics["load_imbalance_max"][0] == 2.0
    assert metrics["load_imbalance_min"][0] == 0.0
    assert metrics["dead_experts"][0] == 4
    assert metrics["router_entropy"][0] == pytest.approx(1.0)


@pytest.mark.parametrize("config", GRID, ids=str)
def test_mixtral_of_hugging_face_agrees_on_logits_losses_and_gradients(harness, config):
    config = replace(config, load_balancing="global_aux_loss", load_balancing_weight=0.02)
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    counterpart = harness.hf_model(SPEC, config, model, output_router_logits=True)
    hf_output, terms = counterpart(ids, labels=ids), harness.losses(SPEC, model, ids)
    torch.testing.assert_close(SPEC.logits(model, ids), hf_output.logits, atol=3e-5, rtol=1e-4)
    assert terms["cross_entropy"].item() == pytest.approx((hf_output.loss - 0.02 * hf_output.aux_loss).item(), rel=1e-5)
    assert terms["load_balancing"].item() == pytest.approx(hf_output.aux_loss.item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(hf_output.loss.item(), rel=1e-5)
    terms["loss"].backward()
    hf_output.loss.backward()
    expected = {name: p.grad for name, p in counterpart.named_parameters()}
    for name, gradient in harness.hf_gradients(SPEC, config, model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 + 1e-4 * expected[name].abs().max().item(), rtol=0, msg=name)


@pytest.mark.parametrize("config", GRID[::7], ids=str)
def test_aux_loss_is_the_mean_of_mixtrals_loss_of_each_layer(harness, config):
    """The reference is the function of Hugging Face's Mixtral, applied to one layer at a time."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = replace(config, load_balancing="aux_loss", load_balancing_weight=0.02)
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    routers = harness.hf_model(SPEC, config, model)(ids, output_router_logits=True).router_logits
    by_layer = [load_balancing_loss_func((router,), config.num_experts, config.num_experts_per_tok) for router in routers]
    assert harness.losses(SPEC, model, ids)["load_balancing"].item() == pytest.approx(torch.stack(by_layer).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "config", [SMALL, GRID[0], GRID[-1], replace(SMALL, tie_word_embeddings=False, num_hidden_layers=3)], ids=str
)
@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 16), (3, 24)])
def test_closed_form_flops_equal_those_torch_counts(harness, config, batch_size, seq_len):
    assert batch_size * seq_len * SPEC.flops_per_token(config, 61, seq_len) == harness.count_flops(
        SPEC, config, batch_size, seq_len
    )


def test_the_claimed_200m_shape_costs_532_611_072_flops_per_token():
    """6 · 71,991,296 + 12 · 8 · 512 · 2048."""
    assert SPEC.flops_per_token(CLAIMED_200M, 32_000, 2048) == 532_611_072
