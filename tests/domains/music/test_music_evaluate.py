import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.domains.music.content.score import note_table, read_score
from provenlm.domains.music.evaluate.backoff_ngrams import fit_backoff, is_target
from provenlm.domains.music.evaluate.distributions import overlap_area
from provenlm.domains.music.evaluate.grammar import grammar_errors
from provenlm.domains.music.evaluate.originality import melody_hashes, shared_ratio
from provenlm.domains.music.evaluate.spec import SPEC, MusicEvalConfig
from tests.domains.music.eval_contexts import TOKENIZER, make_split
from tests.domains.music.planted_models import NUM_VAL, PIECES, PlantedModel, collapsed, make_context, memoriser, uniform
from tests.domains.music.scores import make_piece

CONFIG = MusicEvalConfig(num_samples=6, num_sample_tokens=128, num_val_tokens=2000)


def measure(name, model):
    recorder = MetricRecorder()
    SPEC.probes(CONFIG)[name].run(make_context(model), recorder)
    return {metric: value.value for metric, value in recorder.metrics.items()}, recorder


def witten_bell(train, sequence, order):
    """Compute the mean loss of a sequence with counters: an implementation of its own."""
    counts = [defaultdict(Counter) for _ in range(order)]
    for document in train:
        for position in range(1, len(document)):
            for length in range(min(order, position + 1)):
                counts[length][tuple(document[position - length : position])][document[position]] += 1
    nats = []
    for position in range(1, len(sequence)):
        probability = 1 / TOKENIZER.vocab_size
        for length in range(min(order, position + 1)):
            following = counts[length].get(tuple(sequence[position - length : position]))
            if following:
                total = sum(following.values())
                probability = (following[sequence[position]] + len(following) * probability) / (total + len(following))
        nats.append(-math.log(probability))
    return nats


@pytest.mark.parametrize("order", [1, 2, 6])
def test_the_backoff_model_agrees_with_counters(order):
    model = fit_backoff(make_split(PIECES[4:8]), TOKENIZER.vocab_size, 6)
    expected = [nats for piece in PIECES[:2] for nats in witten_bell(PIECES[4:8], piece, order)]
    np.testing.assert_allclose(model.nats(make_split(PIECES[:2]), order), expected, rtol=1e-9)


def test_probabilities_of_the_backoff_model_sum_to_one():
    model = fit_backoff(make_split([[0, 1, 2, 1, 2, 0]]), 3, 3)
    total = sum(math.exp(-model.nats(make_split([[0, 1, token]]), 3)[-1]) for token in range(3))
    assert total == pytest.approx(1)


def test_the_first_token_of_each_document_is_no_target():
    assert is_target(make_split([[1, 2], [3], [4, 5, 6]])).tolist() == [False, True, False, False, True, True]


def test_a_uniform_model_loses_against_the_n_grams():
    metrics, _ = measure("ngram_baseline", uniform())
    assert metrics["loss"] == pytest.approx(math.log(TOKENIZER.vocab_size), abs=1e-4)
    assert metrics["backoff.loss"] < metrics["unigram.loss"] < metrics["loss"]
    assert SPEC.probes(CONFIG)["ngram_baseline"].checks["loss"].expect == "< backoff.loss"


def test_real_pieces_follow_the_grammar_and_random_tokens_do_not():
    metrics, _ = measure("grammar", memoriser())
    assert metrics["valid.ceiling"] == metrics["valid"] == 1
    assert metrics["valid.chance"] < 0.7
    assert metrics["with_notes"] == metrics["samples"] == 6


@pytest.mark.parametrize(
    ("tokens", "errors"),
    [
        (["Bar_None", "TimeSig_4/4", "Position_0", "Pitch_60", "Duration_1.0.12", "Bar_None"], 0),
        (["Bar_None", "TimeSig_4/4", "Position_0", "Pitch_60", "Pitch_62"], 1),
        (["Bar_None", "TimeSig_4/4", "Position_6", "Pitch_60", "Duration_1.0.12", "Position_3"], 1),
        (["Position_6", "Pitch_60", "Duration_1.0.12", "Pitch_60"], 1),
    ],
)
def test_each_planted_grammar_error_is_counted(tokens, errors):
    assert grammar_errors(tokens, TOKENIZER.successors) == errors


def test_a_model_that_plays_a_training_piece_is_caught_as_a_copy():
    metrics, _ = measure("originality", memoriser())
    assert metrics["copied"] == metrics["copied.max"] == 1
    assert metrics["copied.human"] <= metrics["copied.human_p95"] < 1
    assert SPEC.probes(CONFIG)["originality"].checks["copied"].expect == "<= copied.human_p95"


def test_a_collapsed_model_is_caught_by_greedy_repetition():
    metrics, _ = measure("greedy_repetition", collapsed())
    assert (metrics["distinct_tokens"], metrics["longest_run"]) == (1, 24)
    metrics, _ = measure("greedy_repetition", memoriser())
    assert metrics["distinct_tokens"] >= 5
    assert metrics["longest_run"] <= 8


def test_training_pieces_overlap_more_with_held_out_ones_than_random_tokens():
    metrics, recorder = measure("musical_metrics", memoriser())
    assert metrics["overlap.chance"] < metrics["overlap.ceiling"] <= 1
    assert len(recorder.tables[0].rows) == 11


def test_a_collapsed_model_has_no_musical_metrics():
    with pytest.raises(ValueError, match="samples: at least 2 must have notes, got 0"):
        measure("musical_metrics", collapsed())


def test_overlap_is_one_for_equal_and_zero_for_distant_sets():
    values = np.linspace(0, 1, 30)
    assert overlap_area(values, values) == pytest.approx(1, abs=1e-3)
    assert overlap_area(values, values + 100) < 1e-6
    assert 0.2 < overlap_area(values, values + 0.5) < 0.8


def test_a_transposed_melody_is_a_copy_and_another_piece_is_not():
    first, second = (note_table(read_score(make_piece(seed).content), 4) for seed in (1, 2))
    hashes = melody_hashes(first)
    assert shared_ratio(note_table(read_score(make_piece(1).content).shift_pitch(3), 4), hashes) == 1
    assert shared_ratio(second, hashes) < 0.5
    assert shared_ratio(second.select(np.arange(3)), hashes) is None


def test_samples_are_drawn_once_for_all_probes():
    calls = []

    class CountedModel(PlantedModel):
        def forward(self, tokens_BT):
            calls.append(tokens_BT.shape)
            return super().forward(tokens_BT)

    context = make_context(CountedModel(by_position=torch.tensor(PIECES[NUM_VAL][1:258])))
    probes = SPEC.probes(CONFIG)
    for name in ("grammar", "musical_metrics", "originality"):
        probes[name].run(context, MetricRecorder())
    assert len(calls) == CONFIG.num_sample_tokens
