"""From logits to tokens: the distribution against its definition and another implementation, the cache against no cache."""

from functools import partial

import pytest
import torch

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.generation.sampling import (
    GREEDY,
    CachedLogits,
    SamplingConfig,
    UncachedLogits,
    apply_repetition_penalty,
    generate,
    generate_stream,
    sampling_distribution,
)
from provenlm.models.gpt import spec as gpt
from provenlm.models.gpt.config import GPTConfig as Dense
from provenlm.models.moe import spec as moe
from provenlm.models.moe.config import MoEConfig as Mixture

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])
LLAMA = Dense("llama", 32, 2, 4, 2, 48, 32, True, 10_000.0, 1e-5, 0.0)
GPT2 = Dense("gpt2", 32, 2, 4, 4, 128, 32, False, None, 1e-5, 0.0)
MOE = Mixture(32, 2, 4, 1, 4, 2, 24, 32, True, 10_000.0, 1e-5, 0.0, "layerwise", 0.0, 0.0)
NETS = pytest.mark.parametrize(
    ("face", "settings"), [(gpt.SPEC, LLAMA), (gpt.SPEC, GPT2), (moe.SPEC, MOE)], ids=["llama", "gpt2", "moe"]
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def built(face, settings):
    torch.manual_seed(3)
    model = face.build(settings, 61)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model.eval()


def readers(face, settings):
    """(whole rows, with a cache)."""
    model = built(face, settings)
    whole = UncachedLogits(partial(face.logits, model), settings.context, 0, torch.device("cpu"))
    return whole, CachedLogits(partial(face.continued, model), whole)


def prompts(*lengths):
    return [torch.randint(1, 61, (n,), generator=random(n)).tolist() for n in lengths]


def test_at_temperature_one_the_distribution_is_the_softmax():
    torch.testing.assert_close(sampling_distribution(LOGITS, SamplingConfig(1.0, 0, 1.0, 1.0)), LOGITS.softmax(-1))


def test_temperature_divides_the_logits():
    torch.testing.assert_close(sampling_distribution(LOGITS, SamplingConfig(0.5, 0, 1.0, 1.0)), (LOGITS * 2).softmax(-1))


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_top_k_leaves_the_k_most_probable_and_no_other(k):
    found = sampling_distribution(LOGITS, SamplingConfig(1.0, k, 1.0, 1.0))[0]
    assert torch.nonzero(found).flatten().tolist() == list(range(min(k, 5)))
    assert float(found.sum()) == pytest.approx(1)


def test_top_p_leaves_the_fewest_that_reach_p():
    """softmax: .636, .234, .086, .032, .012."""
    supports = [
        int((sampling_distribution(LOGITS, SamplingConfig(1.0, 0, p, 1.0)) > 0).sum()) for p in (0.5, 0.64, 0.87, 0.95, 0.96, 1.0)
    ]
    assert supports == [1, 2, 2, 3, 4, 5]


def test_top_p_is_cut_from_what_top_k_left():
    """Of the two most probable, .636 and .234, the first is .731 of what is left."""
    assert int((sampling_distribution(LOGITS, SamplingConfig(1.0, 2, 0.7, 1.0)) > 0).sum()) == 1
    assert int((sampling_distribution(LOGITS, SamplingConfig(1.0, 0, 0.7, 1.0)) > 0).sum()) == 2


def test_greedy_takes_the_most_probable():
    assert sampling_distribution(LOGITS, GREEDY).tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((-1.0, 0, 1.0, 1.0), "at least 0"),
        ((1.0, 0, 0.0, 1.0), "top_p above 0"),
        ((0.0, 5, 1.0, 1.0), "greedy"),
        ((1.0, 0, 1.0, 0.0), "repetition_penalty is 0.0"),
    ],
)
def test_a_sampling_that_means_nothing_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        SamplingConfig(*words)


def test_the_penalty_divides_what_is_above_0_and_multiplies_what_is_below():
    rows = [[0, 3, 3], [1]]
    found = apply_repetition_penalty(LOGITS.repeat(2, 1), rows, 2.0).tolist()
    assert found == [[1.0, 1.0, 0.0, -2.0, -2.0], [2.0, 0.5, 0.0, -1.0, -2.0]]


@pytest.mark.parametrize(
    "sampling", [SamplingConfig(0.7, 0, 1.0, 1.3), SamplingConfig(1.3, 7, 1.0, 1.0), SamplingConfig(0.9, 20, 0.8, 1.1)], ids=str
)
def test_the_distribution_is_that_of_transformers_own_processors(sampling):
    from transformers import generation

    rows, logits_BV = prompts(9, 9), torch.randn(2, 61, generator=random(2)) * 3
    processors = [
        generation.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        generation.TemperatureLogitsWarper(sampling.temperature),
        *([generation.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
        generation.TopPLogitsWarper(sampling.top_p),
    ]
    expected = logits_BV
    for processor in processors:
        expected = processor(torch.tensor(rows), expected)
    found = sampling_distribution(apply_repetition_penalty(logits_BV, rows, sampling.repetition_penalty), sampling)
    torch.testing.assert_close(found, expected.softmax(-1))


@NETS
def test_logits_with_a_cache_are_those_without_for_rows_of_different_lengths(face, settings):
    whole, cached = readers(face, settings)
    rows, tokens = prompts(3, 11, 1, 7), prompts(4, 4, 4, 4)
    for n in range(15):
        torch.testing.assert_close(cached(rows), whole(rows), atol=2e-5, rtol=1e-4)
        rows = [[*row, more[n % 4]] for row, more in zip(rows, tokens, strict=True)]
        if n == 5:
            rows = [rows[2], rows[1]]
            cached.select([2, 1])
            tokens = tokens[:2]
    assert cached.cache is not None


@NETS
def test_a_cache_is_read_one_token_at_a_time(face, settings):
    seen = []
    whole, _ = readers(face, settings)

    def continued(tokens_BT, cache):
        seen.append(tuple(tokens_BT.shape))
        return torch.zeros(*tokens_BT.shape, 61)

    generate(CachedLogits(continued, whole), prompts(5, 2), GREEDY, 4, None, random())
    assert seen == [(2, 5), (2, 1), (2, 1), (2, 1)]


@NETS
@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(0.9, 30, 0.9, 1.2)], ids=["greedy", "drawn"])
def test_what_is_written_with_a_cache_is_what_is_written_without_past_the_context_too(face, settings, sampling):
    """40 tokens behind prompts of up to 20, where the context has 32 positions; token 7 ends a row."""
    whole, cached = readers(face, settings)
    begun = prompts(20, 3, 12)
    one, other = (generate(reader, begun, sampling, 40, 7, random(4)) for reader in (whole, cached))
    assert one == other
    assert any(len(row) == 40 for row in one)


@NETS
def test_rows_that_all_end_with_the_same_pass_end_the_writing(face, settings):
    whole, cached = readers(face, settings)
    (first,) = generate(whole, prompts(5), GREEDY, 1, None, random())
    assert generate(cached, prompts(5) * 2, GREEDY, 9, first[0], random()) == [first, first]


def test_a_cache_that_forgets_is_seen():
    """The planted fault: every token stands at position 0."""

    class Forgetful(KVCache):
        def place(self, places_BT):
            super().set_positions(places_BT * 0)

    model = built(gpt.SPEC, LLAMA)
    tokens_BT = torch.tensor(prompts(6))
    wrong, right = Forgetful(32), KVCache(32)
    for cache in (wrong, right):
        cache.set_positions(torch.arange(6)[None])
    expected = gpt.SPEC.logits(model, tokens_BT)
    torch.testing.assert_close(gpt.SPEC.logits_with_cache(model, tokens_BT, right), expected, atol=2e-5, rtol=1e-4)
    assert (gpt.SPEC.logits_with_cache(model, tokens_BT, wrong) - expected).abs().max() > 0.1


def test_a_position_beyond_the_slots_is_refused():
    with pytest.raises(ValueError, match="position 8 asked of a cache of 8 slots"):
        KVCache(8).set_positions(torch.tensor([[8]]))


def test_a_stream_gives_each_token_as_it_is_drawn():
    whole, cached = readers(gpt.SPEC, LLAMA)
    begun, sampling = prompts(4, 2), SamplingConfig(1.0, 0, 1.0, 1.0)
    drawn = list(generate_stream(cached, begun, sampling, 12, 5, random(1)))
    assert [[one[n] for one in drawn if n in one] for n in (0, 1)] == generate(whole, begun, sampling, 12, 5, random(1))
