"""One batch by heart: a sound net gets there, a broken one does not."""

from dataclasses import replace

import pytest
from torch.nn import functional as F

from provenlm.evaluation.probes.overfit_batch import OverfitBatchConfig, overfit_batch_probe

PROBE = overfit_batch_probe(OverfitBatchConfig(num_sequences=4, seq_len=12, steps=150, lr=0.02))


def test_a_sound_net_learns_one_batch_by_heart(good, made, ask):
    figures = ask(PROBE, replace(good, small=made.Tiny))
    assert figures["targets"] == 48
    assert figures["excess"] < 0.05
    assert figures["right"] == figures["right.ceiling"] > 40


def test_rows_that_begin_alike_have_a_floor_above_nought(good, made, ask):
    """All begin with `bos`: the first letter cannot be known."""
    figures = ask(PROBE, replace(good, small=made.Tiny))
    assert 0 < figures["floor"] < figures["nats"]
    assert figures["right.ceiling"] < 48


def test_a_net_that_does_not_look_at_its_input_is_caught(good, made, ask):
    assert ask(PROBE, replace(good, small=lambda vocabulary: made.Tiny(vocabulary, "deaf")))["excess"] > 1


def test_a_loss_whose_targets_are_the_inputs_is_caught(good, made, ask):
    def copying(model, inputs_BT, targets_BT):
        return {"next_token": F.cross_entropy(model(inputs_BT).flatten(0, 1), inputs_BT.flatten())}

    assert ask(PROBE, replace(good, small=made.Tiny, losses=copying))["excess"] > 1


def test_a_loss_without_a_gradient_is_caught(good, made, ask):
    def flat(model, inputs_BT, targets_BT):
        loss = F.cross_entropy(model(inputs_BT).flatten(0, 1), targets_BT.flatten())
        return {"next_token": loss * 0}

    assert ask(PROBE, replace(good, small=made.Tiny, losses=flat))["excess"] > 1


@pytest.mark.parametrize(("change", "said"), [({"rows": 0}, "at least 1"), ({"rate": 0.0}, "above 0")])
def test_settings_that_teach_nothing_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        OverfitBatchConfig(**{"rows": 1, "tokens": 1, "steps": 1, "rate": 0.1, **change})
