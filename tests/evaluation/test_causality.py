"""Test that models which see later tokens are caught, and causal ones pass."""

import math

import pytest

from provenlm.evaluation.probes import causality

PROBES = causality.causality_probes(causality.CausalityConfig(num_positions=6, num_tokens=2048))


def run_causality(name, run_probe, context):
    return run_probe(PROBES[name], context)


def test_a_causal_model_does_not_change_earlier_logits(trained_context, run_probe):
    metrics = run_causality("causality", run_probe, trained_context)
    assert metrics["max_past_change"] < 1e-4
    assert metrics["min_present_change"] > 0.1


@pytest.mark.parametrize("fault", ["all", "peek"])
def test_a_model_that_sees_the_future_changes_earlier_logits(factory, corpus, run_probe, fault):
    context = factory.context(factory.trained(corpus, 16, fault, steps=60), corpus)
    assert run_causality("causality", run_probe, context)["max_past_change"] > 0.1


def test_a_model_that_ignores_its_input_does_not_pass_as_causal(factory, corpus, run_probe):
    metrics = run_causality("causality", run_probe, factory.context(factory.untrained(fault="deaf"), corpus))
    assert metrics == {"num_positions": 6, "max_past_change": 0, "min_present_change": 0}


def test_a_causal_model_has_the_same_loss_after_a_prefix_alone(trained_context, run_probe):
    assert run_causality("prefix_consistency", run_probe, trained_context)["max_diff"] < 1e-4


@pytest.mark.parametrize("fault", ["all", "peek", "length"])
def test_a_model_that_depends_on_later_tokens_differs_on_a_prefix(factory, corpus, run_probe, fault):
    context = factory.context(factory.trained(corpus, 16, fault, steps=60), corpus)
    assert run_causality("prefix_consistency", run_probe, context)["max_diff"] > 0.05


def test_a_trained_model_predicts_the_next_token_best(trained_context, run_probe):
    metrics = run_causality("target_shift", run_probe, trained_context)
    assert metrics["best_offset"] == 1
    assert metrics["margin"] > 1


@pytest.mark.parametrize("shift", [0, 2])
def test_a_model_trained_on_shifted_targets_predicts_those_best(factory, corpus, run_probe, shift):
    metrics = run_causality("target_shift", run_probe, factory.context(factory.trained(corpus, 16, shift=shift), corpus))
    assert metrics["best_offset"] == shift
    assert metrics["margin"] < 0


def test_an_untrained_model_predicts_no_offset_well(factory, corpus, run_probe):
    assert run_causality("target_shift", run_probe, factory.context(factory.untrained(), corpus))["margin"] < 0.1


def test_documents_too_short_to_shift_targets_in_are_refused(factory, run_probe):
    short_dataset = factory.dataset([[1, 3, 2]], [])
    with pytest.raises(ValueError, match="no document has more than 4 tokens"):
        run_causality("target_shift", run_probe, factory.context(factory.untrained(), short_dataset))


def test_a_causal_model_is_not_below_ln_v_on_random_tokens(trained_context, run_probe):
    metrics = run_causality("random_tokens", run_probe, trained_context)
    assert metrics["uniform_loss"] == pytest.approx(math.log(29))
    assert metrics["excess_loss"] > 0
    assert metrics["z_score"] > -4


def test_an_untrained_model_is_within_errors_of_ln_v_on_random_tokens(factory, corpus, run_probe):
    metrics = run_causality("random_tokens", run_probe, factory.context(factory.untrained(), corpus))
    assert abs(metrics["excess_loss"]) < 0.1
    assert metrics["z_score"] > -4


def test_a_model_that_sees_its_target_is_below_ln_v_on_random_tokens(factory, corpus, run_probe):
    """The model learned to copy the next token, which it sees, on random text."""
    import numpy as np

    generator = np.random.default_rng(0)
    random_text = factory.dataset([[1, *generator.integers(3, 29, 50).tolist(), 2] for _ in range(40)], [])
    context = factory.context(factory.trained(random_text, 16, "peek"), random_text)
    metrics = run_causality("random_tokens", run_probe, context)
    assert metrics["excess_loss"] < -1
    assert metrics["z_score"] < -4


def test_a_window_of_one_token_is_refused(factory, corpus, run_probe):
    with pytest.raises(ValueError, match="seq_len must be >= 2"):
        run_causality("causality", run_probe, factory.context(factory.untrained(), corpus, max_seq_len=1))
