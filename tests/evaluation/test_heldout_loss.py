"""Test validation and training loss against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import heldout_loss

CONFIG = heldout_loss.LossEvalConfig(tokens_per_batch=512, num_train_tokens=300)


class FixedDistribution(nn.Module):
    """Return the same distribution at every position."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits_V = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, tokens_BT):
        return self.logits_V.expand(*tokens_BT.shape, -1)


@pytest.fixture
def three_documents(factory):
    """Return three validation documents of 1, 2 and 3 letters, 4, 5 and 6 bytes."""
    from provenlm.data.token_dataset import TokenDataset

    val = factory.split([[1, 3, 2], [1, 3, 4, 2], [1, 3, 3, 4, 2]], "abc", [4, 5, 6])
    return TokenDataset(factory.split(factory.documents(3, 1), "xyz"), val, 29, factory.Letters.special)


def fixed_context(factory, tokens):
    probabilities = np.full(29, 0.125 / 26)
    probabilities[[2, 3, 4]] = [0.25, 0.5, 0.125]
    return factory.context(FixedDistribution(probabilities.tolist()), tokens, 4)


def test_bits_per_byte_of_three_documents_by_hand(factory, three_documents, run_probe):
    """Targets: four A at 1 bit, two B at 3 bits, three ends at 2 bits: 16 bits over 15 bytes."""
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], fixed_context(factory, three_documents))
    assert metrics["bits_per_byte"] == pytest.approx(16 / 15, rel=1e-6)
    assert metrics["loss"] == pytest.approx(16 / 9 * math.log(2), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(2 ** (16 / 9), rel=1e-6)
    assert (metrics["num_targets"], metrics["num_tokens"], metrics["num_bytes"], metrics["num_documents"]) == (9, 12, 15, 3)


def test_the_interval_of_bits_per_byte_is_over_documents(factory, three_documents, run_probe):
    """Bits 3, 6, 7 over 4, 5, 6 bytes."""
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], fixed_context(factory, three_documents))
    residuals = np.array([3, 6, 7]) - 16 / 15 * np.array([4, 5, 6])
    error = math.sqrt(3 / 2 * (residuals**2).sum()) / 15
    assert metrics["bits_per_byte.ci_high"] - metrics["bits_per_byte"] == pytest.approx(1.959964 * error, rel=1e-5)


def test_the_uniform_loss_is_ln_v_and_accuracy_is_between_its_levels(trained_context, run_probe):
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], trained_context)
    assert metrics["uniform.loss"] == pytest.approx(math.log(29))
    assert metrics["accuracy.chance"] < metrics["accuracy"] <= metrics["accuracy.ceiling"] <= 1


def test_a_trained_model_beats_the_unigram(trained_context, run_probe):
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], trained_context)
    assert metrics["gain_over.unigram.ci_low"] > 1
    assert metrics["gain_over.unigram"] == pytest.approx(metrics["unigram.loss"] - metrics["loss"])


def test_an_untrained_model_has_no_gain(factory, corpus, run_probe):
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], factory.context(factory.untrained(), corpus))
    assert metrics["gain_over.bigram"] < -1
    assert metrics["gain_over.unigram"] < 0.1


def test_the_training_loss_needs_no_validation_documents(factory, run_probe):
    context = factory.context(factory.untrained(), factory.dataset(factory.documents(3, 1), []))
    probes = heldout_loss.loss_probes(CONFIG)
    metrics = run_probe(probes["train"], context)
    assert metrics["loss"] == pytest.approx(math.log(29), abs=0.2)
    assert metrics["min_achievable_loss"] < 1
    assert "generalization_gap" not in metrics


def test_the_gap_is_held_out_minus_training_loss(trained_context, run_probe):
    probes = heldout_loss.loss_probes(CONFIG)
    val, train = run_probe(probes["val"], trained_context), run_probe(probes["train"], trained_context)
    assert train["generalization_gap"] == pytest.approx(val["loss"] - train["loss"])


def test_one_held_out_document_has_no_interval(factory, run_probe):
    context = factory.context(factory.untrained(), factory.dataset(factory.documents(3, 1), factory.documents(1, 2)))
    assert not [name for name in run_probe(heldout_loss.loss_probes(CONFIG)["val"], context) if name.endswith(".ci_low")]


def test_documents_without_bos_are_counted_as_unscored(factory, run_probe):
    context = factory.context(factory.untrained(), factory.dataset(factory.documents(3, 1), [[3, 4, 2], [5, 6, 2]]))
    assert run_probe(heldout_loss.loss_probes(CONFIG)["val"], context)["unscored_documents"] == 2


def test_curves_end_at_the_mean_loss(trained_context):
    recorder = MetricRecorder()
    heldout_loss.loss_probes(CONFIG)["val"].run(trained_context, recorder)
    by_document = next(s for s in recorder.series if s.name == "loss_by_document")
    assert list(by_document.y_values["model"]) == sorted(by_document.y_values["model"])
    assert len(by_document.x_values) == recorder.metrics["num_documents"].value
    by_place = next(s for s in recorder.series if s.name == "loss_by_position")
    assert len(by_place.x_values) == len(by_place.y_values["model"]) == 16


def test_overlaps_with_training_are_left_out_of_decontaminated_loss(factory, run_probe):
    """One of two validation documents occurs in training: its letters have almost no loss, those of the other ln 29 each."""
    alphabet = [*range(3, 29), *range(3, 29)]
    novel_document = [1, *[3, 5, 9, 4, 20, 3, 3, 28, 7, 6] * 3, 2]
    tokens = factory.dataset([[1, *alphabet, 2], *factory.documents(5, 1)], [[1, *alphabet, 2], novel_document])

    class Reciter(FixedDistribution):
        def forward(self, tokens_BT):
            logits_BTV = torch.zeros(*tokens_BT.shape, 29)
            following_BT = torch.where(tokens_BT == 28, 3, tokens_BT + 1)
            reciting_B1 = tokens_BT[:, 2:3] == 4
            return torch.where(reciting_B1[..., None], 10.0 * nn.functional.one_hot(following_BT.clamp(max=28), 29), logits_BTV)

    context = factory.context(Reciter([1 / 29] * 29), tokens, 64)
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], context)
    assert metrics["decontaminated.num_targets"] == 31
    assert metrics["decontaminated.loss"] == pytest.approx(math.log(29), rel=1e-5)
    assert metrics["loss"] < 0.6 * metrics["decontaminated.loss"]


def test_without_decontaminated_targets_there_is_no_such_loss(factory, run_probe):
    document = [1, *range(3, 29), *range(3, 29), 2]
    context = factory.context(factory.untrained(), factory.dataset([document], [document]))
    metrics = run_probe(heldout_loss.loss_probes(CONFIG)["val"], context)
    assert metrics["decontaminated.num_targets"] == 0
    assert "decontaminated.loss" not in metrics
