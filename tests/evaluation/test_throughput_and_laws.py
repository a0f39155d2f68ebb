from dataclasses import replace

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import throughput
from provenlm.evaluation.probes.compute_optimality import capacity
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC
from provenlm.scaling.laws import scaling_law_loss, within_fit_range


def test_each_length_is_timed_and_the_slow_end_is_not_faster_than_the_median(good, ask):
    figures = ask(throughput.throughput_probe(throughput.ThroughputConfig((4, 16), 9)), good)
    assert set(figures) == {f"length_{length}.{name}" for length in (4, 16) for name in ("median", "p95", "peak")}
    assert 0 < figures["length_16.p95"] <= figures["length_16.median"]


def test_a_length_that_training_never_saw_is_refused(good, ask):
    with pytest.raises(ValueError, match="at most 16 positions"):
        ask(throughput.throughput_probe(throughput.ThroughputConfig((32,), 9)), good)


def test_timed_passes_are_warmed_up(good, ask):
    calls = []

    def counting(model, tokens_BT):
        calls.append(tokens_BT.shape)
        return model(tokens_BT)

    ask(throughput.throughput_probe(throughput.ThroughputConfig((8,), 5)), replace(good, logits=counting))
    assert len(calls) == 5 + throughput.NUM_WARMUP + 1  # the last one is looked at for its memory


def test_a_longer_row_takes_more_memory_and_a_wasteful_net_more_still(good, ask):
    def wasteful(model, tokens_BT):
        return model(tokens_BT) + torch.zeros(1000, *tokens_BT.shape, good.tokens.vocabulary).sum(0)

    probe = throughput.throughput_probe(throughput.ThroughputConfig((4, 16), 5))
    lean, fat = ask(probe, good), ask(probe, replace(good, logits=wasteful))
    assert lean["length_4.peak"] < lean["length_16.peak"] < fat["length_16.peak"]
    assert fat["length_16.peak"] > 1000 * 16 * 29 * 4


def test_a_reference_is_timed_and_measured_in_the_same_run(made, corpus, ask):
    shape = GPTConfig("llama", 16, 1, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.0)
    subject = made.subject(
        SPEC.build(shape, 29).eval(), corpus, logits=SPEC.logits, published=lambda weights: SPEC.to_hf(shape, 29, weights)
    )
    recorder = MetricRecorder()
    throughput.throughput_probe(throughput.ThroughputConfig((8,), 5))(subject, recorder)
    figures = recorder.metrics
    assert {"length_8.reference.median", "length_8.reference.ratio", "length_8.reference.peak"} <= figures.keys()
    assert "LlamaForCausalLM" in figures["length_8.reference.ratio"].description
    assert [set(series.y_values) for series in recorder.series] == [
        {"net, median", "reference, median", "net, p95"},
        {"net", "reference"},
    ]


@pytest.mark.parametrize(("lengths", "repeats", "said"), [((), 9, "at least one"), ((4, 4), 9, "once"), ((4,), 2, "median")])
def test_settings_that_measure_nothing_are_refused(lengths, repeats, said):
    with pytest.raises(ValueError, match=said):
        throughput.ThroughputConfig(lengths, repeats)


def test_the_seed_of_4850312_tokens_suits_242516_parameters_by_the_rule_of_twenty(good):
    tokens = replace(good.tokens.train, ids=range(4_850_312))
    recorder = MetricRecorder()
    shape = {"total": 222_994_944, "active": 72_000_000}
    capacity(replace(good, tokens=replace(good.tokens, train=tokens, vocab_size=32_000), analytic_counts=shape), recorder)
    figures = recorder.metrics
    assert figures["optimal_parameters"].value == 242_516
    assert figures["optimal_tokens"].value == 4_459_898_880
    assert figures["tokens_per_parameter"].value == pytest.approx(0.02175, rel=1e-3)
    assert {n for n, f in figures.items() if f.kind == "estimated"} == {n for n in figures if n.startswith(("optimal", "expected"))}
    assert "stretched beyond the sizes" in figures["expected_loss"].description


def test_the_scaling_law_gives_chinchilla_its_loss_worked_out_by_hand():
    """70 G parameters, 1.4 T tokens: 1.8172 + 0.0815 + 0.0752."""
    assert scaling_law_loss(70e9, 1.4e12) == pytest.approx(1.974, abs=1e-3)
    assert not within_fit_range(70e9, 1.4e12)
    assert within_fit_range(1e9, 20e9)


def test_where_the_law_says_more_than_guessing_no_loss_is_expected(good, ask):
    assert ask(capacity, good)["expected_loss"] == "not applicable"
