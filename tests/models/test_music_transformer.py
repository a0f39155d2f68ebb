"""Test the music transformer: sizes, causality, cache, segments, and equality with Hugging Face's Llama."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from provenlm.core.errors import ConfigError
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import ResolvedModel, complete_model
from provenlm.models.generation.logits_provider import CachedLogits, UncachedLogits
from provenlm.models.music_transformer.config import MusicTransformerConfig
from provenlm.models.music_transformer.model import MusicTransformer
from provenlm.models.music_transformer.spec import SPEC

BARS = (3, 7, 11, 19, 30, 42)
PLAIN = MusicTransformerConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=56, max_position_embeddings=64
)
BAR = replace(PLAIN, attention="hierarchical", bar_token_ids=BARS, local_window=4)
STRIDE = replace(BAR, summaries="stride", summary_stride=3, bar_token_ids=None, variant="gpt2", head_bias=True)
UNTIED = {"tie_word_embeddings": False}
CONFIGS = pytest.mark.parametrize("config", [PLAIN, BAR, STRIDE], ids=["plain", "bar", "stride"])
GRID = [
    PLAIN,
    replace(PLAIN, variant="gpt2", head_bias=True, **UNTIED),
    replace(BAR, num_hidden_layers=1, **UNTIED),
    replace(STRIDE, intermediate_size=40, summary_stride=4),
    replace(STRIDE, variant="llama", **UNTIED),
]
IDS = ["plain", "plain_gpt2", "bar_untied", "stride", "stride_untied"]
SEED_SETTING = MusicTransformerConfig(
    attention="hierarchical",
    summaries="stride",
    summary_stride=64,
    local_window=256,
    variant="gpt2",
    hidden_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    intermediate_size=2048,
    tie_word_embeddings=False,
    head_bias=True,
)


def bar_positions(tokens_BT: Tensor) -> int:
    return int(torch.isin(tokens_BT, torch.tensor(BARS)).sum())


def test_the_tokens_of_these_tests_have_bars(harness):
    assert bar_positions(harness.tokens(2, 17)) >= 3


def test_the_model_of_the_first_seed_report_has_17_608_454_parameters(harness):
    assert SPEC.num_params(SEED_SETTING, 774)["total"] == harness.count_params(SPEC, SEED_SETTING, 774) == 17_608_454


@pytest.mark.parametrize("config", GRID, ids=IDS)
def test_the_closed_forms_count_the_built_parameters_by_part(config):
    marks = {"embedding": "embed_tokens", "attention": "self_attn", "feed_forward": "mlp", "head": "head"}
    with torch.device("meta"):
        named = [(name, p.numel()) for name, p in SPEC.build(config, 61).named_parameters()]
    counts = {part: sum(n for name, n in named if mark in name) for part, mark in marks.items()}
    counts["norms"] = sum(n for name, n in named) - sum(counts.values())
    expected = SPEC.num_params(config, 61)
    assert counts == {part: expected[part] for part in counts}
    assert sum(counts.values()) == expected["total"] == expected["active"]


@pytest.mark.parametrize(
    "config", [PLAIN, replace(STRIDE, summary_stride=4), replace(STRIDE, local_window=24, **UNTIED)], ids=["plain", "chunks", "one"]
)
@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 12), (3, 24)])
def test_closed_form_flops_equal_those_torch_counts(harness, config, batch_size, seq_len):
    expected = harness.count_flops(SPEC, config, batch_size, seq_len) / (batch_size * seq_len)
    assert SPEC.flops_per_token(config, 61, seq_len) == pytest.approx(expected, abs=config.num_hidden_layers)


@CONFIGS
@pytest.mark.parametrize("position", [1, 5, 9, 16])
def test_a_later_token_does_not_change_an_earlier_logit(harness, config, position):
    """Also if the token begins a bar, or ceases to."""
    model, before = harness.build_random(SPEC, config).eval(), harness.tokens()
    for token in (3, 4):
        after = before.clone()
        after[:, position] = torch.where(before[:, position] == token, 5, token)
        change = (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))
        assert change[:position].max() < 1e-5
        assert change[position] > 1e-2


@pytest.mark.parametrize("config", [BAR, STRIDE], ids=["bar", "stride"])
def test_a_token_beyond_the_window_is_seen_through_its_summary(harness, config):
    """With one layer, the first token reaches position 16 only through the summary of its segment."""
    config = replace(config, num_hidden_layers=1)
    model, before = harness.build_random(SPEC, config).eval(), harness.tokens()
    after = before.clone()
    after[:, 0] = 1
    change = (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))
    assert change[-1] > 1e-4
    blind = replace(config, summaries="stride", summary_stride=64)
    model = harness.build_random(SPEC, blind).eval()
    assert (SPEC.logits(model, before) - SPEC.logits(model, after)).abs().amax((0, 2))[-1] == 0


@CONFIGS
def test_the_cache_gives_the_logits_of_whole_sequences(harness, config):
    """Prompts of unequal length, padded on the right; one sequence ends early."""
    model, tokens = harness.build_random(SPEC, config).eval(), harness.tokens(3, 24).tolist()
    full = UncachedLogits(lambda tokens_BT: SPEC.logits(model, tokens_BT), 64, 3, torch.device("cpu"))
    cached = CachedLogits(lambda tokens_BT, cache: SPEC.logits_with_cache(model, tokens_BT, cache), full)
    lengths = [9, 4, 7]
    for step in range(12):
        sequences = [row[: length + step] for row, length in zip(tokens, lengths, strict=True)]
        torch.testing.assert_close(cached(sequences), full(sequences), atol=2e-4, rtol=1e-4)
        if step == 5:
            cached.select([2, 0])
            tokens, lengths = [tokens[2], tokens[0]], [lengths[2], lengths[0]]


@CONFIGS
def test_a_packed_document_gets_the_states_it_gets_alone(harness, config):
    model, ids = harness.build_random(SPEC, config), harness.tokens(1, 17)
    documents = torch.tensor([[4] * 6 + [5] * 11])
    packed = model.hidden_states(ids, documents_BT=documents)[0]
    alone = torch.cat([model.hidden_states(ids[:, :6])[0], model.hidden_states(ids[:, 6:])[0]], 1)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-5)
    assert (model.hidden_states(ids)[0] - alone)[:, 6:].abs().max() > 1e-2


@pytest.mark.parametrize("config", GRID, ids=IDS)
def test_the_loss_is_the_cross_entropy_of_the_logits(harness, config):
    """With label smoothing, and with the bias of the output layer."""
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    (objective,) = SPEC.objectives(model, IGNORE)
    targets = ids.roll(-1, 1)
    targets[:, 12:] = IGNORE
    terms = objective.loss(TokenBatch(ids, targets, label_smoothing=0.1))
    logits = SPEC.logits(model, ids).flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), label_smoothing=0.1)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["cross_entropy"], F.cross_entropy(logits, targets.flatten()))
    assert not terms["cross_entropy"].requires_grad
    own = objective.loss(SimpleNamespace(inputs_BT=ids, targets_BT=targets))
    torch.testing.assert_close(own["loss"], terms["cross_entropy"])


@pytest.mark.parametrize("config", GRID, ids=IDS)
def test_the_gradients_are_those_of_plain_cross_entropy(harness, config):
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    harness.losses(SPEC, model, ids)["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    F.cross_entropy(SPEC.logits(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-4)
        assert parameter.grad.abs().max() > 0, name


@CONFIGS
def test_every_parameter_is_in_exactly_one_group(config):
    model = SPEC.build(replace(config, **UNTIED), 61)
    (objective,) = SPEC.objectives(model, IGNORE)
    grouped = [p for parameters in objective.param_groups.values() for p in parameters]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    assert all(p.ndim == 2 and 61 not in p.shape for p in objective.param_groups["matrix"])
    assert all(p.ndim == 1 for p in objective.param_groups["default"])


@CONFIGS
def test_dropout_applies_in_training_only(harness, config):
    model, ids = harness.build_random(SPEC, replace(config, dropout=0.5)), harness.tokens()
    assert not torch.equal(SPEC.logits(model.train(), ids), SPEC.logits(model, ids))
    assert torch.equal(SPEC.logits(model.eval(), ids), SPEC.logits(model, ids))


@pytest.mark.parametrize("tied", [True, False])
def test_hugging_face_agrees_on_a_plain_llama(harness, tied):
    config = replace(PLAIN, tie_word_embeddings=tied)
    model, ids = harness.build_random(SPEC, config), harness.tokens()
    counterpart = harness.hf_model(SPEC, config, model)
    torch.testing.assert_close(SPEC.logits(model, ids), counterpart(ids).logits, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"attention": "hierarchical"}, {"variant": "gpt2"}, {"head_bias": True}], ids=str)
def test_other_models_have_no_hugging_face_format(harness, changes):
    config = replace(PLAIN, bar_token_ids=BARS, **changes)
    with pytest.raises(ConfigError, match="export needs attention: plain, variant: llama and head_bias: false"):
        SPEC.to_hf(config, 61, harness.build_random(SPEC, config).state_dict())


def completed(config: MusicTransformerConfig, token_classes: dict[str, list[int]]) -> MusicTransformerConfig:
    resolved = complete_model(ResolvedModel("music_transformer", SPEC, config, {}), token_classes, "recipes.x.model")
    assert resolved.section["bar_token_ids"] == resolved.model_config.bar_token_ids
    return resolved.model_config


def test_bar_tokens_are_those_of_the_corpus():
    unknown = replace(BAR, bar_token_ids=None)
    assert completed(unknown, {"Bar": [3], "Pitch": [5]}).bar_token_ids == (3,)
    assert completed(BAR, {"Bar": [3, 4]}) == BAR
    assert completed(PLAIN, {}) == PLAIN and completed(STRIDE, {}) == STRIDE
    with pytest.raises(
        ConfigError,
        match=r"recipes.x.model.summaries: must be stride for tokens without the class Bar, got bar; classes of this corpus: Pitch",
    ):
        completed(unknown, {"Pitch": [5]})
    with pytest.raises(ConfigError, match="summaries: must be stride for tokens that number the bars, got bar; class Bar: 2 ids"):
        completed(unknown, {"Bar": [3, 4], "Pitch": [5]})


def test_a_model_of_bars_that_does_not_know_them_counts_but_does_not_run(harness):
    config = replace(BAR, bar_token_ids=None)
    assert harness.count_params(SPEC, config, 61) == SPEC.num_params(config, 61)["total"]
    with pytest.raises(ConfigError, match="bar_token_ids must name the tokens that begin a bar for summaries: bar, got null"):
        SPEC.logits(harness.build_random(SPEC, config), harness.tokens())


def test_a_segment_begins_with_each_bar_token():
    with torch.device("meta"):
        model = MusicTransformer(BAR, 61)
    model.bar_ids = torch.tensor(BARS)
    tokens = torch.tensor([[9, 3, 9, 7, 3, 9]])
    assert model.segment_starts(tokens, torch.arange(6)[None]).tolist() == [[False, True, False, True, True, False]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 36}, r"hidden_size: must be a multiple of 2 \* num_attention_heads = 8, got 36"),
        ({"local_window": 0}, "local_window: must be >= 1, got 0"),
        ({"summary_stride": 0}, "summary_stride: must be >= 1, got 0"),
        ({"rope_theta": 0.0}, "rope_theta: must be > 0, got 0.0"),
        ({"dropout": 1.0}, "dropout: must be >= 0 and < 1, got 1.0"),
        ({"bar_token_ids": ()}, r"bar_token_ids: must be at least one id >= 0, or null, got \[\]"),
        ({"bar_token_ids": (-1,)}, r"bar_token_ids: must be at least one id >= 0, or null, got \[-1\]"),
    ],
)
def test_an_invalid_config_is_refused_with_the_allowed_values(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)
