"""One batch by heart: a sound net gets there, a broken one does not."""

from dataclasses import replace

import pytest
from torch.nn import functional as F

from provenlm.evaluation.probes.overfit_batch import OverfitBatchConfig, overfit_batch_probe

PROBE = overfit_batch_probe(OverfitBatchConfig(num_sequences=4, seq_len=12, steps=150, lr=0.02))


def test_a_correct_model_overfits_one_batch(trained_context, factory, run_probe):
    metrics = run_probe(PROBE, replace(trained_context, build_small=factory.Tiny))
    assert metrics["num_targets"] == 48
    assert metrics["excess_loss"] < 0.05
    assert metrics["num_correct"] == metrics["num_correct.ceiling"] > 40


def test_sequences_with_equal_prefixes_have_a_lowest_loss_above_0(trained_context, factory, run_probe):
    """All begin with `bos`: the first letter cannot be known."""
    metrics = run_probe(PROBE, replace(trained_context, build_small=factory.Tiny))
    assert 0 < metrics["min_achievable_loss"] < metrics["loss"]
    assert metrics["num_correct.ceiling"] < 48


def test_a_model_that_ignores_its_input_is_caught(trained_context, factory, run_probe):
    assert (
        run_probe(PROBE, replace(trained_context, build_small=lambda vocabulary: factory.Tiny(vocabulary, "deaf")))["excess_loss"]
        > 1
    )


def test_a_loss_whose_targets_are_the_inputs_is_caught(trained_context, factory, run_probe):
    def loss_on_inputs(model, batch):
        return {"next_token": F.cross_entropy(model(batch.inputs_BT).flatten(0, 1), batch.inputs_BT.flatten())}

    assert run_probe(PROBE, replace(trained_context, build_small=factory.Tiny, losses=loss_on_inputs))["excess_loss"] > 1


def test_a_loss_without_a_gradient_is_caught(trained_context, factory, run_probe):
    def zero_loss(model, batch):
        loss = F.cross_entropy(model(batch.inputs_BT).flatten(0, 1), batch.targets_BT.flatten())
        return {"next_token": loss * 0}

    assert run_probe(PROBE, replace(trained_context, build_small=factory.Tiny, losses=zero_loss))["excess_loss"] > 1


@pytest.mark.parametrize(
    ("changes", "message"), [({"num_sequences": 0}, "num_sequences must be >= 1"), ({"lr": 0.0}, "lr must be > 0")]
)
def test_settings_below_their_minimum_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        OverfitBatchConfig(**{"num_sequences": 1, "seq_len": 1, "steps": 1, "lr": 0.1, **changes})
