"""Test throughput, peak memory and scaling laws."""

from dataclasses import replace

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import throughput
from provenlm.evaluation.probes.compute_optimality import compute_optimality_probes, is_within_scaling_law
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC
from provenlm.scaling.laws import scaling_law_loss, within_fit_range


def test_each_seq_is_timed_and_the_slow_end_is_not_faster_than_the_median(trained_context, run_probe):
    metrics = run_probe(throughput.throughput_probe(throughput.ThroughputConfig((4, 16), 9)), trained_context)
    assert set(metrics) == {f"seq_{length}.{name}" for length in (4, 16) for name in ("median", "p95", "peak_memory_bytes")}
    assert 0 < metrics["seq_16.p95"] <= metrics["seq_16.median"]


def test_a_seq_that_training_never_saw_is_refused(trained_context, run_probe):
    with pytest.raises(ValueError, match="must be <= 16"):
        run_probe(throughput.throughput_probe(throughput.ThroughputConfig((32,), 9)), trained_context)


def test_timed_passes_are_warmed_up(trained_context, run_probe):
    calls = []

    def count_calls(model, tokens_BT):
        calls.append(tokens_BT.shape)
        return model(tokens_BT)

    run_probe(throughput.throughput_probe(throughput.ThroughputConfig((8,), 5)), replace(trained_context, logits=count_calls))
    assert len(calls) == 5 + throughput.NUM_WARMUP + 1  # the last one is looked at for its memory


def test_longer_sequences_and_wasteful_models_take_more_memory(trained_context, run_probe):
    def allocate_more(model, tokens_BT):
        return model(tokens_BT) + torch.zeros(1000, *tokens_BT.shape, trained_context.tokens.vocab_size).sum(0)

    probe = throughput.throughput_probe(throughput.ThroughputConfig((4, 16), 5))
    small_peaks, large_peaks = run_probe(probe, trained_context), run_probe(probe, replace(trained_context, logits=allocate_more))
    assert (
        small_peaks["seq_4.peak_memory_bytes"] < small_peaks["seq_16.peak_memory_bytes"] < large_peaks["seq_16.peak_memory_bytes"]
    )
    assert large_peaks["seq_16.peak_memory_bytes"] > 1000 * 16 * 29 * 4


def test_a_reference_is_timed_and_measured_in_the_same_run(factory, corpus, run_probe):
    config = GPTConfig("llama", 16, 1, 2, 1, 24, 32, True, 10_000.0, 1e-5, 0.0)
    context = factory.context(
        SPEC.build(config, 29).eval(), corpus, logits=SPEC.logits, to_hf=lambda weights: SPEC.to_hf(config, 29, weights)
    )
    recorder = MetricRecorder()
    throughput.throughput_probe(throughput.ThroughputConfig((8,), 5)).run(context, recorder)
    metrics = recorder.metrics
    assert {"seq_8.hf_median", "seq_8.vs_hf", "seq_8.hf_peak_memory_bytes"} <= metrics.keys()
    assert "LlamaForCausalLM" in metrics["seq_8.vs_hf"].description
    assert [set(series.y_values) for series in recorder.series] == [
        {"model, median", "reference, median", "model, p95"},
        {"model", "reference"},
    ]


@pytest.mark.parametrize(
    ("seq_lens", "num_iters", "message"), [((), 9, "seq_lens must"), ((4, 4), 9, "distinct"), ((4,), 2, "num_iters must be >= 5")]
)
def test_settings_that_measure_nothing_are_refused(seq_lens, num_iters, message):
    with pytest.raises(ValueError, match=message):
        throughput.ThroughputConfig(seq_lens, num_iters)


def test_4850312_tokens_suit_242516_parameters_by_the_rule_of_20(trained_context):
    tokens = replace(trained_context.tokens.train, ids=range(4_850_312))
    recorder = MetricRecorder()
    counts = {"total": 222_994_944, "active": 72_000_000}
    context = replace(
        trained_context, tokens=replace(trained_context.tokens, train=tokens, vocab_size=32_000), analytic_counts=counts
    )
    for probe in compute_optimality_probes().values():
        probe.run(context, recorder)
    metrics = recorder.metrics
    assert metrics["optimal_params"].value == 242_516
    assert metrics["optimal_tokens"].value == 4_459_898_880
    assert metrics["tokens_per_param"].value == pytest.approx(0.02175, rel=1e-3)
    assert {n for n, f in metrics.items() if f.kind == "estimated"} == {n for n in metrics if n.startswith(("optimal", "expected"))}
    assert "extrapolated beyond the sizes" in metrics["expected_loss"].description


def test_the_scaling_law_gives_the_loss_of_chinchilla():
    """70 G parameters, 1.4 T tokens: 1.8172 + 0.0815 + 0.0752."""
    assert scaling_law_loss(70e9, 1.4e12) == pytest.approx(1.974, abs=1e-3)
    assert not within_fit_range(70e9, 1.4e12)
    assert within_fit_range(1e9, 20e9)


def test_a_tiny_model_is_outside_the_scaling_law(trained_context):
    assert not is_within_scaling_law(trained_context)
    assert compute_optimality_probes()["scaling_law"].needs >= {"scaling_law"}
