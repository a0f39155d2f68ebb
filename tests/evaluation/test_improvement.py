from dataclasses import replace

import pytest
import torch

from provenlm.evaluation.probes.improvement import improvement_probe

PROBE = improvement_probe(512, 300)


def test_a_trained_net_began_near_ln_v_and_fell(good, ask):
    figures = ask(PROBE, good)
    assert abs(figures["initial_gap"]) < 0.1
    assert figures["fallen"] > 1
    assert figures["unmoved"] == 0
    assert figures["moved"] > 0.1
    assert figures["trainable"] == sum(p.numel() for p in good.model.parameters())


def test_a_net_that_was_never_trained_has_not_moved(made, corpus, ask):
    figures = ask(PROBE, made.subject(made.untrained(), corpus))
    assert (figures["unmoved"], figures["moved"], figures["fallen"]) == (5, 0, 0)


def test_a_frozen_net_has_nothing_to_train(made, corpus, ask):
    frozen = made.untrained().requires_grad_(False)
    assert ask(PROBE, made.subject(frozen, corpus))["trainable"] == 0


def test_one_tensor_that_training_did_not_reach_is_counted(good, corpus, made, ask):
    model = made.trained(corpus, 16, steps=5)
    with torch.no_grad():
        model.head.bias.copy_(made.untrained().head.bias)
    assert ask(PROBE, replace(good, model=model))["unmoved"] == 1


def test_a_net_that_begins_far_from_ln_v_is_seen(made, good, ask):
    def loud():
        model = made.untrained()
        torch.nn.init.normal_(model.head.weight, 0, 5)
        return model

    assert ask(PROBE, replace(good, build_untrained=loud))["initial_gap"] > 1


def test_another_architecture_is_no_beginning(good, ask):
    with pytest.raises(ValueError, match="other parameters"):
        ask(PROBE, replace(good, build_untrained=lambda: torch.nn.Sequential(torch.nn.Embedding(29, 29))))
