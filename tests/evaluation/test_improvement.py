"""Test the comparison of a trained model with its initial state."""

from dataclasses import replace

import pytest
import torch

from provenlm.evaluation.probes.improvement import improvement_probes

PROBES = improvement_probes(512, 300)


def test_a_trained_model_began_near_ln_v_and_improved(trained_context, run_probe):
    assert abs(run_probe(PROBES["initialization"], trained_context)["loss_minus_uniform"]) < 0.1
    assert run_probe(PROBES["improvement"], trained_context)["loss_improvement"] > 1
    metrics = run_probe(PROBES["updates"], trained_context)
    assert metrics["unchanged_tensors"] == 0
    assert metrics["relative_update"] > 0.1
    assert metrics["trainable_params"] == sum(p.numel() for p in trained_context.model.parameters())


def test_an_untrained_model_has_no_updates(factory, corpus, run_probe):
    context = factory.context(factory.untrained(), corpus)
    metrics = run_probe(PROBES["updates"], context)
    assert (metrics["unchanged_tensors"], metrics["relative_update"]) == (5, 0)
    assert run_probe(PROBES["improvement"], context)["loss_improvement"] == 0


def test_a_frozen_model_has_no_trainable_parameters(factory, corpus, run_probe):
    frozen = factory.untrained().requires_grad_(False)
    assert run_probe(PROBES["updates"], factory.context(frozen, corpus))["trainable_params"] == 0


def test_one_tensor_that_training_did_not_reach_is_counted(trained_context, corpus, factory, run_probe):
    model = factory.trained(corpus, 16, steps=5)
    with torch.no_grad():
        model.head.bias.copy_(factory.untrained().head.bias)
    assert run_probe(PROBES["updates"], replace(trained_context, model=model))["unchanged_tensors"] == 1


def test_an_initial_loss_far_from_ln_v_is_caught(factory, trained_context, run_probe):
    def build_with_large_head():
        model = factory.untrained()
        torch.nn.init.normal_(model.head.weight, 0, 5)
        return model

    context = replace(trained_context, build_untrained=build_with_large_head)
    assert run_probe(PROBES["initialization"], context)["loss_minus_uniform"] > 1


def test_an_initial_model_with_other_parameters_is_refused(trained_context, run_probe):
    with pytest.raises(ValueError, match="same parameters"):
        run_probe(
            PROBES["updates"], replace(trained_context, build_untrained=lambda: torch.nn.Sequential(torch.nn.Embedding(29, 29)))
        )
