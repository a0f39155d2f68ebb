"""The audit of data, edge cases, speed and advice: true values, and each planted fault is found."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.domains.music.evaluate import recommendations
from provenlm.domains.music.evaluate.config import DataConfiguration, MusicEvalConfig, PerformanceConfig
from provenlm.domains.music.evaluate.midi_validity import midi_error
from provenlm.domains.music.evaluate.spec import SPEC
from tests.domains.music.eval_contexts import CONFIG, corpus, make_split, measure, transformer_context, vae_context
from tests.domains.music.scores import make_piece

CONFIGURATIONS = {
    "windows": DataConfiguration(32),
    "growing": DataConfiguration(64, start=16),
    "packed": DataConfiguration(128, "packed"),
}
DATA = replace(CONFIG, data_configurations=CONFIGURATIONS)


@pytest.fixture(scope="module")
def context():
    return transformer_context()


@pytest.fixture(scope="module")
def data(context):
    return measure("data", context, DATA)


def test_the_default_configurations_are_512_growing_to_1024_and_2048():
    configurations = MusicEvalConfig().data_configurations
    assert [c.seq_len for c in configurations.values()] == [512, 1024, 2048]
    assert configurations["growing_1024"].start == 512


@pytest.mark.parametrize(("name", "length"), [("windows", 32), ("growing", 64), ("packed", 128)])
def test_each_configuration_gives_the_length_that_it_asks_for(data, name, length):
    metrics, recorder = data
    assert metrics[f"{name}.seq_len.asked"] == metrics[f"{name}.seq_len.got"] == length
    assert metrics[f"{name}.sequences"] == -(-(len(corpus().train.ids) - 1) // length)
    assert metrics[f"{name}.lost_targets"] == 0
    assert metrics["growing.seq_len.first"] == 16
    (row,) = [row for row in recorder.tables[0].rows if row[0] == name]
    assert row[5] == f"4 × {length}" if name != "growing" else row[4:6] == ("16 × 16", "4 × 64")


def test_the_range_of_ids_is_that_of_the_whole_training_split(data):
    metrics, _ = data
    ids = np.asarray(corpus().train.ids)
    assert (metrics["packed.min_id"], metrics["packed.max_id"]) == (min(ids.min(), 0), ids.max())
    assert metrics["packed.max_id"] < metrics["vocab_size"] == corpus().vocab_size
    assert 0 < metrics["packed.unused_ids"] < metrics["vocab_size"]


def test_a_planted_id_outside_of_the_vocabulary_is_found(context):
    """It stands once in the last piece: a batch of two sequences would not show it."""
    split = make_split([[1, 4, 5], [1, corpus().vocab_size, 2]])
    tokens = replace(corpus(), train=split)
    metrics, _ = measure("data", replace(context, tokens=tokens), replace(DATA, data_configurations={"all": DataConfiguration(2)}))
    assert metrics["all.max_id"] == metrics["vocab_size"]


def test_a_planted_training_that_gives_shorter_sequences_is_found(context):
    """The seed asked for 1024 tokens and got 512."""

    def make_trainer(model, tokens, changes):
        return context.make_trainer(model, tokens, {**changes, "seq_len": changes["seq_len"] // 2})

    metrics, _ = measure(
        "data", replace(context, make_trainer=make_trainer), replace(DATA, data_configurations={"a": DataConfiguration(64)})
    )
    assert (metrics["a.seq_len.asked"], metrics["a.seq_len.got"]) == (64, 32)
    assert SPEC.probes(DATA)["data"].checks["windows.seq_len.got"].expect == "0.9 * seq_len.asked..seq_len.asked"


def test_planted_tokens_that_never_reach_training_are_counted(context):
    def make_trainer(model, tokens, changes):
        half = make_split([np.asarray(tokens.train.ids[: tokens.train.doc_offsets[1]]).tolist()])
        return context.make_trainer(model, replace(tokens, train=half), changes)

    metrics, _ = measure("data", replace(context, make_trainer=make_trainer), DATA)
    train = corpus().train
    assert metrics["windows.lost_targets"] == len(train.ids) - train.doc_offsets[1] - (len(train.record_ids) - 1)


def test_sequences_of_bars_keep_every_target():
    metrics, _ = measure("data", vae_context(), replace(DATA, data_configurations={"bars": DataConfiguration(128, start=64)}))
    assert metrics["bars.lost_targets"] == 0
    assert 0.9 * 128 <= metrics["bars.seq_len.got"] <= 128


def test_every_edge_case_ends_as_expected(context):
    metrics, recorder = measure("edge_cases", context)
    assert metrics["failures"] == 0
    outcomes = dict(recorder.tables[0].rows)
    assert outcomes["A sequence of one token"] == f"1 × {corpus().vocab_size} finite logits"
    assert outcomes["The longest sequence, 128 tokens"] == f"128 × {corpus().vocab_size} finite logits"
    assert len(outcomes) == 6


@pytest.mark.parametrize("fault", ["nan", "clamped"])
def test_planted_edge_cases_are_counted(context, fault):
    def logits(model, tokens_BT):
        if fault == "nan" and tokens_BT.shape[1] == 1 and tokens_BT.max() < corpus().vocab_size:
            return torch.full((1, 1, 5), torch.nan)
        return context.logits(model, tokens_BT.clamp(max=corpus().vocab_size - 1) if fault == "clamped" else tokens_BT)

    metrics, _ = measure("edge_cases", replace(context, logits=logits))
    assert metrics["failures"] == 1
    assert metrics["one_token.passed" if fault == "nan" else "unknown_id.passed"] == 0


def test_speed_and_memory_are_measured_at_every_length(context):
    metrics, recorder = measure("performance", context)
    for length in (32, 64):
        for operation in ("forward", "step", "generation"):
            assert metrics[f"seq_{length}.{operation}.tokens_per_second"] > 0
            assert metrics[f"seq_{length}.{operation}.spread_seconds"] >= 0
    assert metrics["seq_64.step.peak_memory_bytes"] > metrics["seq_32.step.peak_memory_bytes"] > 0
    assert metrics["seq_64.step.peak_memory_bytes"] > metrics["seq_64.forward.peak_memory_bytes"]
    assert len(recorder.tables[0].rows) == 6


def test_a_planted_delay_shows_in_the_median(context):
    def slow_logits(model, tokens_BT):
        time.sleep(0.02)
        return context.logits(model, tokens_BT)

    config = replace(CONFIG, performance=replace(CONFIG.performance, seq_lens=(32,)))
    metrics, _ = measure("performance", replace(context, logits=slow_logits), config)
    assert metrics["seq_32.forward.seconds"] >= 0.02
    assert metrics["seq_32.forward.tokens_per_second"] == pytest.approx(64 / metrics["seq_32.forward.seconds"])


def test_lengths_above_the_limit_of_the_model_are_left_out(context):
    config = replace(CONFIG, performance=PerformanceConfig((64, 512), num_iters=3, num_warmup=1, num_generated=4))
    metrics, _ = measure("performance", context, config)
    assert metrics["longest_seq_len"] == 64


def test_measuring_the_speed_changes_neither_weights_nor_random_state(context):
    state = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}
    torch.manual_seed(7)
    measure("performance", context, replace(CONFIG, performance=replace(CONFIG.performance, seq_lens=(32,))))
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    assert all(torch.equal(tensor, state[name]) for name, tensor in context.model.state_dict().items())


def advise(values):
    recorder = MetricRecorder()
    recommendations.record_recommendations(recorder, values)
    return {name: metric.value for name, metric in recorder.metrics.items()}, recorder.tables[0]


def test_the_recommended_length_follows_from_the_measured_speeds():
    values = {f"performance.seq_{length}.step.tokens_per_second": rate for length, rate in ((512, 100), (1024, 85), (2048, 60))}
    assert advise(values)[0]["seq_len"] == 1024
    assert advise({**values, "performance.seq_2048.step.tokens_per_second": 90})[0]["seq_len"] == 2048


def test_memory_that_grows_with_the_square_of_the_length_is_said_so():
    values = {f"performance.seq_{length}.step.peak_memory_bytes": length**2 * 100 for length in (512, 2048)}
    (row,) = advise(values)[1].rows
    assert row[0] == "memory" and "power 2.00" in row[1] and "checkpointing" in row[2]


@pytest.mark.parametrize(
    ("loss", "failed", "words"), [(1.2, 0, "train longer"), (2.0, 1, "more steps"), (4.0, 1, "nothing was learned")]
)
def test_the_gate_of_learning_compares_the_loss_with_n_grams(loss, failed, words):
    values = {"ngram_baseline.loss": loss, "ngram_baseline.backoff.loss": 1.8, "ngram_baseline.unigram.loss": 3.5}
    metrics, table = advise(values)
    assert metrics["gates_failed"] == failed
    assert words in table.rows[0][2]
    assert ("not ready: learning" in table.description) is bool(failed)


@pytest.mark.parametrize(("ratio", "low", "passed"), [(0.03, 0.01, "yes"), (0.01, 0.01, "no"), (0.03, -0.01, "no")])
def test_the_gate_of_latents_asks_for_a_gap_that_is_certain_and_large_enough(ratio, low, passed):
    gap = "latent_losses.prior_gap"
    _, table = advise({gap: 0.05, f"{gap}.ratio": ratio, f"{gap}.ci_low": low})
    assert [(row[0], row[3]) for row in table.rows] == [("latents", passed)]


def test_without_values_there_is_no_recommendation():
    with pytest.raises(ValueError, match="must follow from at least one measured value, got none"):
        advise({})


def test_recommendations_read_what_the_other_probes_recorded(context):
    probes = SPEC.probes(CONFIG)
    probes["ngram_baseline"].run(context, MetricRecorder())
    recorder = MetricRecorder()
    probes["recommendations"].run(context, recorder)
    assert [row[0] for row in recorder.tables[0].rows] == ["learning"]


def test_a_written_midi_file_is_valid():
    assert midi_error(make_piece(3).content) is None


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda content: content[:10], "header must have 14 bytes"),
        (lambda content: b"RIFF" + content[4:], "must be MThd"),
        (lambda content: content[:9] + b"\x02" + content[10:], "format 0 or 1"),
        (lambda content: content[:-4], "must have"),
        (lambda content: content[:20], "its last event is cut"),  # within the length of the track
        (lambda content: content + b"\x00", "1 more bytes"),
        (lambda content: content[:14] + b"MTrX" + content[18:], "begin with MTrk"),
    ],
)
def test_planted_damage_of_a_midi_file_is_found(damage, error):
    assert error in midi_error(damage(make_piece(3).content))


def midi_file(events):
    track = events + b"\x00\xff\x2f\x00"
    return b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0MTrk" + len(track).to_bytes(4, "big") + track


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (b"\x00\x90\x3c\x40\x10\x3c\x00", None),  # running status; velocity 0 ends the note
        (b"\x00\x90\x3c\x40", "1 notes have no end"),
        (b"\x00\x80\x3c\x40", "pitch 60 ends without a beginning"),
        (b"\x00\x90\xbc\x40\x10\x3c\x00", "data bytes must be below 128, got 188"),
        (b"\x00\xf4", "status 0xf4 is unknown"),
        (b"\xff\xff\xff\xff\x7f", "its last event is cut"),
    ],
)
def test_events_are_checked_by_hand(events, error):
    found = midi_error(midi_file(events))
    assert found is None if error is None else error in found
