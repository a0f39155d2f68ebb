"""Compare the sampling distribution with its definition and transformers, and cached with uncached generation."""

import pytest
import torch

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.generation.logits_provider import CachedLogits, logits_provider
from provenlm.models.generation.sampling import (
    GREEDY,
    SamplingConfig,
    apply_repetition_penalty,
    generate,
    generate_stream,
    sampling_distribution,
)
from provenlm.models.gpt import spec as gpt
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.moe import spec as moe
from provenlm.models.moe.config import MoEConfig

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])
LLAMA = GPTConfig("llama", 32, 2, 4, 2, 48, 32, True, 10_000.0, 1e-5, 0.0)
GPT2 = GPTConfig("gpt2", 32, 2, 4, 4, 128, 32, False, None, 1e-5, 0.0)
MOE = MoEConfig(32, 2, 4, 1, 4, 2, 24, 32, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.0, 0.0)
MODELS = pytest.mark.parametrize(
    ("spec", "config"), [(gpt.SPEC, LLAMA), (gpt.SPEC, GPT2), (moe.SPEC, MOE)], ids=["llama", "gpt2", "moe"]
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def build_random(spec, config):
    torch.manual_seed(3)
    model = spec.build(config, 61)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model.eval()


def providers(spec, config):
    """Return the provider without and with a cache."""
    model = build_random(spec, config)
    return tuple(
        logits_provider(spec, model, config.max_position_embeddings, {"pad": 0}, torch.device("cpu"), use_cache)
        for use_cache in (False, True)
    )


def prompts(*lengths):
    return [torch.randint(1, 61, (n,), generator=random(n)).tolist() for n in lengths]


def test_at_temperature_one_the_distribution_is_the_softmax():
    torch.testing.assert_close(sampling_distribution(LOGITS, SamplingConfig(1.0, 0, 1.0, 1.0)), LOGITS.softmax(-1))


def test_temperature_divides_the_logits():
    torch.testing.assert_close(sampling_distribution(LOGITS, SamplingConfig(0.5, 0, 1.0, 1.0)), (LOGITS * 2).softmax(-1))


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_top_k_keeps_only_the_k_most_probable(k):
    actual = sampling_distribution(LOGITS, SamplingConfig(1.0, k, 1.0, 1.0))[0]
    assert torch.nonzero(actual).flatten().tolist() == list(range(min(k, 5)))
    assert float(actual.sum()) == pytest.approx(1)


def test_top_p_keeps_the_fewest_tokens_that_reach_p():
    """softmax: .636, .234, .086, .032, .012."""
    supports = [
        int((sampling_distribution(LOGITS, SamplingConfig(1.0, 0, p, 1.0)) > 0).sum()) for p in (0.5, 0.64, 0.87, 0.95, 0.96, 1.0)
    ]
    assert supports == [1, 2, 2, 3, 4, 5]


def test_top_p_applies_after_top_k():
    """Of the two most probable, .636 and .234, the first is .731 of what is left."""
    assert int((sampling_distribution(LOGITS, SamplingConfig(1.0, 2, 0.7, 1.0)) > 0).sum()) == 1
    assert int((sampling_distribution(LOGITS, SamplingConfig(1.0, 0, 0.7, 1.0)) > 0).sum()) == 2


def test_greedy_takes_the_most_probable():
    assert sampling_distribution(LOGITS, GREEDY).tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1.0, 0, 1.0, 1.0), "temperature: must be >= 0, got -1.0"),
        ((1.0, 0, 0.0, 1.0), "top_p: must be > 0 and <= 1, got 0.0"),
        ((0.0, 5, 1.0, 1.0), "top_k: must be 0 with temperature 0, which is greedy, got 5"),
        ((1.0, 0, 1.0, 0.0), "repetition_penalty: must be > 0, got 0.0"),
    ],
)
def test_an_invalid_sampling_config_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(*values)


def test_the_penalty_divides_positive_and_multiplies_negative_logits():
    sequences = [[0, 3, 3], [1]]
    actual = apply_repetition_penalty(LOGITS.repeat(2, 1), sequences, 2.0).tolist()
    assert actual == [[1.0, 1.0, 0.0, -2.0, -2.0], [2.0, 0.5, 0.0, -1.0, -2.0]]


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(0.7, 0, 1.0, 1.3), SamplingConfig(1.3, 7, 1.0, 1.0), SamplingConfig(0.9, 20, 0.8, 1.1)], ids=str
)
def test_the_distribution_equals_that_of_transformers(sampling):
    from transformers import generation

    sequences, logits_BV = prompts(9, 9), torch.randn(2, 61, generator=random(2)) * 3
    processors = [
        generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        generation.TemperatureLogitsWarper(sampling.temperature),
        *([generation.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
        generation.TopPLogitsWarper(sampling.top_p),
    ]
    expected = logits_BV
    for processor in processors:
        expected = processor(torch.tensor(sequences), expected)
    actual = sampling_distribution(apply_repetition_penalty(logits_BV, sequences, sampling.repetition_penalty), sampling)
    torch.testing.assert_close(actual, expected.softmax(-1))


@MODELS
def test_cached_logits_equal_uncached_for_sequences_of_different_lengths(spec, config):
    uncached, cached = providers(spec, config)
    sequences, tokens = prompts(3, 11, 1, 7), prompts(4, 4, 4, 4)
    for n in range(15):
        torch.testing.assert_close(cached(sequences), uncached(sequences), atol=2e-5, rtol=1e-4)
        sequences = [[*sequence, more[n % 4]] for sequence, more in zip(sequences, tokens, strict=True)]
        if n == 5:
            sequences = [sequences[2], sequences[1]]
            cached.select([2, 1])
            tokens = tokens[:2]
    assert cached.cache is not None


@MODELS
def test_with_a_cache_each_pass_has_one_new_token(spec, config):
    shapes = []
    uncached, _ = providers(spec, config)

    def record_shape(tokens_BT, cache):
        shapes.append(tuple(tokens_BT.shape))
        return torch.zeros(*tokens_BT.shape, 61)

    generate(CachedLogits(record_shape, uncached), prompts(5, 2), GREEDY, 4, None, random())
    assert shapes == [(2, 5), (2, 1), (2, 1), (2, 1)]


@MODELS
@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(0.9, 30, 0.9, 1.2)], ids=["greedy", "sampled"])
def test_cached_generation_equals_uncached_beyond_the_longest_sequence(spec, config, sampling):
    """40 tokens behind prompts of up to 20, where the context has 32 positions; token 7 ends a sequence."""
    uncached, cached = providers(spec, config)
    prompt_ids = prompts(20, 3, 12)
    expected, actual = (generate(provider, prompt_ids, sampling, 40, 7, random(4)) for provider in (uncached, cached))
    assert expected == actual
    assert any(len(sequence) == 40 for sequence in expected)


@MODELS
def test_generation_ends_when_all_sequences_end_together(spec, config):
    uncached, cached = providers(spec, config)
    (first,) = generate(uncached, prompts(5), GREEDY, 1, None, random())
    assert generate(cached, prompts(5) * 2, GREEDY, 9, first[0], random()) == [first, first]


def test_a_cache_that_forgets_is_shapes():
    """The planted fault: every token stands at position 0."""

    class PositionZeroCache(KVCache):
        def set_positions(self, positions_BT):
            super().set_positions(positions_BT * 0)

    model = build_random(gpt.SPEC, LLAMA)
    tokens_BT = torch.tensor(prompts(6))
    wrong, right = PositionZeroCache(32), KVCache(32)
    for cache in (wrong, right):
        cache.set_positions(torch.arange(6)[None])
    expected = gpt.SPEC.logits(model, tokens_BT)
    torch.testing.assert_close(gpt.SPEC.logits_with_cache(model, tokens_BT, right), expected, atol=2e-5, rtol=1e-4)
    assert (gpt.SPEC.logits_with_cache(model, tokens_BT, wrong) - expected).abs().max() > 0.1


def test_a_position_beyond_the_slots_is_refused():
    with pytest.raises(ValueError, match="position must be < 8, the number of slots of the cache, got 8"):
        KVCache(8).set_positions(torch.tensor([[8]]))


def test_a_stream_yields_each_token_when_it_is_sampled():
    uncached, cached = providers(gpt.SPEC, LLAMA)
    prompt_ids, sampling = prompts(4, 2), SamplingConfig(1.0, 0, 1.0, 1.0)
    sampled = list(generate_stream(cached, prompt_ids, sampling, 12, 5, random(1)))
    assert [[step[n] for step in sampled if n in step] for n in (0, 1)] == generate(
        uncached, prompt_ids, sampling, 12, 5, random(1)
    )
