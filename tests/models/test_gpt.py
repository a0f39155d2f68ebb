"""Test the dense decoder: shape, causality, and equality with Hugging Face's Llama and GPT-2."""

import itertools
from dataclasses import replace

import pytest
import torch

from provenlm.models.common.objective import IGNORE, TokenBatch
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
VARIANTS = pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
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


@pytest.mark.parametrize("config", GRID, ids=str)
def test_hugging_face_agrees_on_logits_loss_and_gradients(harness, config):
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    counterpart = harness.hf_model(SPEC, config, model)
    hf_output, loss = counterpart(ids, labels=ids), harness.losses(SPEC, model, ids)["loss"]
    torch.testing.assert_close(SPEC.logits(model, ids), hf_output.logits, atol=3e-5, rtol=1e-4)
    assert loss.item() == pytest.approx(hf_output.loss.item(), rel=1e-5)
    loss.backward()
    hf_output.loss.backward()
    expected = {name: p.grad for name, p in counterpart.named_parameters()}
    for name, gradient in harness.hf_gradients(SPEC, config, model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5 + 1e-4 * expected[name].abs().max().item(), rtol=0, msg=name)


@pytest.mark.parametrize("config", GRID, ids=str)
def test_the_closed_form_counts_the_built_parameters(harness, config):
    count = SPEC.num_params(config, 61)
    assert count["total"] == count["active"] == harness.count_params(SPEC, config, 61)
    assert count["total"] == sum(n for part, n in count.items() if part not in ("total", "active"))


@VARIANTS
@pytest.mark.parametrize("tied", [True, False])
def test_the_parts_of_the_count_match_the_built_model(config, tied):
    config = replace(config, tie_word_embeddings=tied)
    parts = {
        "embedding": "embed_tokens",
        "positions": "embed_positions",
        "attention": "self_attn",
        "feed_forward": "mlp",
        "norms": "norm",
        "head": "lm_head",
    }
    named = [(name, p.numel()) for name, p in SPEC.build(config, 61).named_parameters()]
    count = SPEC.num_params(config, 61)
    assert {part: sum(n for name, n in named if mark in name) for part, mark in parts.items()} == {p: count[p] for p in parts}


@pytest.mark.parametrize(
    ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_seq_len", "total"),
    [(37, 16, 1, 4, 8, 4_624), (61, 32, 2, 8, 128, 33_472)],
)
def test_the_ladder_models_have_their_published_sizes(harness, vocab_size, hidden_size, num_layers, num_heads, max_seq_len, total):
    shape = replace(
        GPT2,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max_seq_len,
    )
    assert SPEC.num_params(shape, vocab_size)["total"] == harness.count_params(SPEC, shape, vocab_size) == total


def test_gpt2_of_124_million_parameters_has_124_439_808(harness):
    shape = replace(
        GPT2,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        intermediate_size=3072,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    assert SPEC.num_params(shape, 50_257)["total"] == harness.count_params(SPEC, shape, 50_257) == 124_439_808


@pytest.mark.parametrize("config", [GRID[0], GRID[5], GRID[12], GPT2, replace(GPT2, tie_word_embeddings=True)], ids=str)
@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 16), (3, 24)])
def test_closed_form_flops_equal_those_torch_counts(harness, config, batch_size, seq_len):
    assert batch_size * seq_len * SPEC.flops_per_token(config, 61, seq_len) == harness.count_flops(
        SPEC, config, batch_size, seq_len
    )


@VARIANTS
def test_a_later_token_does_not_change_an_earlier_logit(harness, config):
    model, before = harness.build_random(SPEC, config).eval(), harness.tokens()
    after = before.clone()
    after[:, 9] = (after[:, 9] + 1) % 61
    change = (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))
    assert change[:9].max() < 1e-5
    assert change[9] > 1e-2


@VARIANTS
def test_every_parameter_is_in_exactly_one_group(config):
    model = SPEC.build(replace(config, tie_word_embeddings=False), 61)
    (objective,) = SPEC.objectives(model, IGNORE)
    grouped = [p for parameters in objective.param_groups.values() for p in parameters]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    assert all(p.ndim == 2 and 61 not in p.shape for p in objective.param_groups["matrix"])
    assert all(p.ndim == 1 for p in objective.param_groups["default"])


@VARIANTS
def test_ignored_targets_carry_no_loss(harness, config):
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    (objective,) = SPEC.objectives(model, IGNORE)
    masked = ids.roll(-1, 1)
    masked[:, 5:] = IGNORE
    short = objective.loss(TokenBatch(ids[:, :5], ids.roll(-1, 1)[:, :5]))["loss"].item()
    assert objective.loss(TokenBatch(ids, masked))["loss"].item() == pytest.approx(short, rel=1e-5)


def test_a_missing_rope_theta_is_10_000_for_llama_and_none_for_gpt2():
    assert GPTConfig().rope_theta == 10_000.0
    assert GPTConfig(variant="gpt2", num_key_value_heads=4).rope_theta is None


@VARIANTS
def test_dropout_applies_in_training_only(harness, config):
    model, ids = harness.build_random(SPEC, replace(config, dropout=0.5)), harness.tokens()
    assert not torch.equal(SPEC.logits(model.train(), ids), SPEC.logits(model, ids))
    assert torch.equal(SPEC.logits(model.eval(), ids), SPEC.logits(model, ids))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (LLAMA, {"hidden_size": 36}, r"hidden_size: must be a multiple of 2 \* num_attention_heads = 8, got 36"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads = 4, got 3"),
        (LLAMA, {"rope_theta": 0.0}, "rope_theta: must be > 0 for variant llama, got 0.0"),
        (LLAMA, {"dropout": 1.0}, "dropout: must be >= 0 and < 1, got 1.0"),
        (LLAMA, {"norm_eps": 0.0}, "norm_eps: must be > 0, got 0.0"),
        (LLAMA, {"intermediate_size": 0}, "intermediate_size: must be >= 1, got 0"),
        (GPT2, {"rope_theta": 1e4}, "rope_theta: must be null for variant gpt2"),
        (GPT2, {"num_key_value_heads": 2}, "must equal num_attention_heads = 4 for variant gpt2, got 2"),
        (GPT2, {"hidden_size": 30}, "hidden_size: must be a multiple of num_attention_heads = 4, got 30"),
    ],
)
def test_an_invalid_config_is_refused_with_the_allowed_values(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)
