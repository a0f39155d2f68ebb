"""The dense decoder: its shape, its causality, and its equality with Hugging Face's Llama and GPT-2."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC

LLAMA = GPTConfig(
    variant="llama",
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=56,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    dropout=0.0,
)
GPT2 = replace(LLAMA, variant="gpt2", num_key_value_heads=4, intermediate_size=128, tie_word_embeddings=False, rope_theta=None)
STYLES = pytest.mark.parametrize("settings", [LLAMA, GPT2], ids=["llama", "gpt2"])
GRID = [
    *(
        replace(LLAMA, num_key_value_heads=g, tie_word_embeddings=t, num_hidden_layers=n)
        for g, t, n in itertools.product((1, 2, 4), (True, False), (1, 3))
    ),
    *(
        replace(LLAMA, hidden_size=48, num_attention_heads=h, num_key_value_heads=h, intermediate_size=f, rope_theta=th)
        for h, f, th in [(2, 40, 5e5), (6, 129, 100.0)]
    ),
    *(replace(GPT2, tie_word_embeddings=t, num_hidden_layers=n) for t, n in itertools.product((True, False), (1, 3))),
    *(
        replace(GPT2, hidden_size=48, num_attention_heads=h, num_key_value_heads=h, intermediate_size=f)
        for h, f in [(1, 40), (6, 129), (16, 192)]
    ),
]


@pytest.mark.parametrize("settings", GRID, ids=str)
def test_the_counterpart_agrees_on_logits_loss_and_gradients(beside, settings):
    ours, ids = beside.built(SPEC, settings), beside.tokens()
    theirs = beside.theirs(SPEC, settings, ours)
    their, our = theirs(ids, labels=ids), beside.losses(SPEC, ours, ids)["loss"]
    torch.testing.assert_close(SPEC.logits(ours, ids), their.logits, atol=3e-5, rtol=1e-4)
    assert our.item() == pytest.approx(their.loss.item(), rel=1e-5)
    our.backward()
    their.loss.backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, gradient in beside.gradients(SPEC, settings, ours).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 + 1e-4 * expected[name].abs().max().item(), rtol=0, msg=name)


@pytest.mark.parametrize("settings", GRID, ids=str)
def test_the_closed_form_counts_what_is_built(beside, settings):
    count = SPEC.num_params(settings, 61)
    assert count["total"] == count["active"] == beside.counted(SPEC, settings, 61)
    assert count["total"] == sum(n for part, n in count.items() if part not in ("total", "active"))


@STYLES
@pytest.mark.parametrize("tied", [True, False])
def test_the_parts_of_the_count_are_those_of_the_built_net(settings, tied):
    settings = replace(settings, tie_word_embeddings=tied)
    parts = {
        "embedding": "embed_tokens",
        "positions": "embed_positions",
        "attention": "self_attn",
        "feed_forward": "mlp",
        "norms": "norm",
        "head": "lm_head",
    }
    named = [(name, p.numel()) for name, p in SPEC.build(settings, 61).named_parameters()]
    count = SPEC.num_params(settings, 61)
    assert {part: sum(n for name, n in named if mark in name) for part, mark in parts.items()} == {p: count[p] for p in parts}


@pytest.mark.parametrize(
    ("vocabulary", "hidden", "layers", "heads", "context", "total"), [(37, 16, 1, 4, 8, 4_624), (61, 32, 2, 8, 128, 33_472)]
)
def test_the_nets_of_the_ladder_have_their_published_sizes(beside, vocabulary, hidden, layers, heads, context, total):
    shape = replace(
        GPT2,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=4 * hidden,
        context=context,
    )
    assert SPEC.num_params(shape, vocabulary)["total"] == beside.counted(SPEC, shape, vocabulary) == total


def test_gpt2_of_124_million_parameters_has_124_439_808(beside):
    shape = replace(
        GPT2,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        intermediate_size=3072,
        context=1024,
        tie_word_embeddings=True,
    )
    assert SPEC.num_params(shape, 50_257)["total"] == beside.counted(SPEC, shape, 50_257) == 124_439_808


@pytest.mark.parametrize("settings", [GRID[0], GRID[5], GRID[12], GPT2, replace(GPT2, tie_word_embeddings=True)], ids=str)
@pytest.mark.parametrize(("rows", "length"), [(1, 16), (3, 24)])
def test_flops_by_formula_are_those_that_torch_counts(beside, settings, rows, length):
    assert rows * length * SPEC.flops_per_token(settings, 61, length) == beside.flops(SPEC, settings, rows, length)


@STYLES
def test_a_later_token_does_not_move_an_earlier_logit(beside, settings):
    model, before = beside.built(SPEC, settings).eval(), beside.tokens()
    after = before.clone()
    after[:, 9] = (after[:, 9] + 1) % 61
    moved = (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))
    assert moved[:9].max() < 1e-5
    assert moved[9] > 1e-2


@STYLES
def test_a_new_net_begins_near_the_loss_of_guessing(beside, settings):
    torch.manual_seed(0)
    model = SPEC.build(settings, 61)
    assert beside.losses(SPEC, model, beside.tokens())["loss"].item() == pytest.approx(math.log(61), abs=0.1)


@STYLES
def test_more_positions_than_the_context_are_refused(beside, settings):
    model = beside.built(SPEC, settings)
    with pytest.raises(ValueError, match="context of 64"):
        SPEC.logits(model, beside.tokens(1, 65))
    cache = KVCache(100)
    cache.set_positions(torch.tensor([[64]]))
    with pytest.raises(ValueError, match="context of 64"):
        SPEC.logits_with_cache(model, beside.tokens(1, 1), cache)


@STYLES
def test_every_parameter_has_exactly_one_role(settings):
    model = SPEC.build(replace(settings, tie_word_embeddings=False), 61)
    (objective,) = SPEC.objectives(model, IGNORE)
    by_role = [p for parameters in objective.param_groups.values() for p in parameters]
    assert len(by_role) == len(set(by_role)) == len(list(model.parameters()))
    assert all(p.ndim == 2 and 61 not in p.shape for p in objective.param_groups["matrix"])
    assert all(p.ndim == 1 for p in objective.param_groups["rest"])


@STYLES
def test_ignored_targets_carry_no_loss(beside, settings):
    model, ids = beside.built(SPEC, settings), beside.tokens()
    (objective,) = SPEC.objectives(model, IGNORE)
    kept = ids.roll(-1, 1)
    kept[:, 5:] = IGNORE
    short = objective.loss(Batch(ids[:, :5], ids.roll(-1, 1)[:, :5]))["loss"].item()
    assert objective.loss(Batch(ids, kept))["loss"].item() == pytest.approx(short, rel=1e-5)


@STYLES
def test_dropout_acts_in_training_alone(beside, settings):
    model, ids = beside.built(SPEC, replace(settings, dropout=0.5)), beside.tokens()
    assert not torch.equal(SPEC.logits(model.train(), ids), SPEC.logits(model, ids))
    assert torch.equal(SPEC.logits(model.eval(), ids), SPEC.logits(model, ids))


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (LLAMA, {"hidden": 36}, "even number"),
        (LLAMA, {"kv_heads": 3}, "must divide heads, 4"),
        (LLAMA, {"rope_theta": None}, "takes a number above 0"),
        (LLAMA, {"dropout": 1.0}, "below 1"),
        (LLAMA, {"norm_eps": 0.0}, "above 0"),
        (LLAMA, {"inner": 0}, "at least 1"),
        (GPT2, {"rope_theta": 1e4}, "null would be right"),
        (GPT2, {"kv_heads": 2}, "one for each of the 4 heads"),
        (GPT2, {"hidden": 30}, "multiple of heads"),
    ],
)
def test_impossible_shapes_are_refused_with_what_would_be_right(settings, change, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)
