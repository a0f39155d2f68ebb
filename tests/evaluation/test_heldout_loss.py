import math

import numpy as np
import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes import heldout_loss

SETTINGS = heldout_loss.LossEvalConfig(tokens_per_batch=512, num_train_tokens=300)


class Fixed(nn.Module):
    """The same distribution everywhere."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits_V = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, tokens_BT):
        return self.logits_V.expand(*tokens_BT.shape, -1)


@pytest.fixture
def three(made):
    """Three held-out documents of 1, 2 and 3 letters, 4, 5 and 6 bytes."""
    from provenlm.data.token_dataset import TokenDataset

    val = made.split([[1, 3, 2], [1, 3, 4, 2], [1, 3, 3, 4, 2]], "abc", [4, 5, 6])
    return TokenDataset(made.split(made.words(3, 1), "xyz"), val, 29, made.Letters.special)


def fixed(made, tokens):
    probabilities = np.full(29, 0.125 / 26)
    probabilities[[2, 3, 4]] = [0.25, 0.5, 0.125]
    return made.subject(Fixed(probabilities.tolist()), tokens, 4)


def test_bits_per_byte_of_three_documents_by_hand(made, three, ask):
    """Targets: four A at 1 bit, two B at 3 bits, three ends at 2 bits: 16 bits over 15 bytes."""
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], fixed(made, three))
    assert figures["bits_per_byte"] == pytest.approx(16 / 15, rel=1e-6)
    assert figures["nats"] == pytest.approx(16 / 9 * math.log(2), rel=1e-6)
    assert figures["perplexity"] == pytest.approx(2 ** (16 / 9), rel=1e-6)
    assert (figures["targets"], figures["tokens"], figures["bytes"], figures["documents"]) == (9, 12, 15, 3)


def test_the_interval_of_bits_per_byte_is_over_documents(made, three, ask):
    """Bits 3, 6, 7 over 4, 5, 6 bytes."""
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], fixed(made, three))
    residuals = np.array([3, 6, 7]) - 16 / 15 * np.array([4, 5, 6])
    error = math.sqrt(3 / 2 * (residuals**2).sum()) / 15
    assert figures["bits_per_byte.high"] - figures["bits_per_byte"] == pytest.approx(1.959964 * error, rel=1e-5)


def test_the_uniform_baseline_is_ln_v_and_accuracy_stands_between_chance_and_ceiling(good, ask):
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], good)
    assert figures["uniform.nats"] == pytest.approx(math.log(29))
    assert figures["accuracy.chance"] < figures["accuracy"] <= figures["accuracy.ceiling"] <= 1


def test_a_net_that_learned_beats_the_unigram(good, ask):
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], good)
    assert figures["margin.unigram.low"] > 1
    assert figures["margin.unigram"] == pytest.approx(figures["unigram.nats"] - figures["nats"])


def test_an_untrained_net_has_no_margin(made, corpus, ask):
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], made.subject(made.untrained(), corpus))
    assert figures["margin.bigram"] < -1
    assert figures["margin.unigram"] < 0.1


def test_where_nothing_was_held_out_nothing_is_said_about_it(made, ask):
    subject = made.subject(made.untrained(), made.tokens(made.words(3, 1), []))
    assert ask(heldout_loss.loss_probes(SETTINGS)["heldout"], subject) == {"documents": 0}


def test_the_training_loss_is_measured_without_held_out_documents(made, ask):
    subject = made.subject(made.untrained(), made.tokens(made.words(3, 1), []))
    both = heldout_loss.loss_probes(SETTINGS)
    ask(both["heldout"], subject)
    figures = ask(both["training"], subject)
    assert figures["nats"] == pytest.approx(math.log(29), abs=0.2)
    assert figures["floor"] < 1
    assert "gap" not in figures


def test_the_gap_is_held_out_minus_training_loss(good, ask):
    both = heldout_loss.loss_probes(SETTINGS)
    held_out, training = ask(both["heldout"], good), ask(both["training"], good)
    assert training["gap"] == pytest.approx(held_out["nats"] - training["nats"])


def test_one_held_out_document_has_no_interval(made, ask):
    subject = made.subject(made.untrained(), made.tokens(made.words(3, 1), made.words(1, 2)))
    assert not [name for name in ask(heldout_loss.loss_probes(SETTINGS)["heldout"], subject) if name.endswith(".low")]


def test_a_codec_without_a_bos_leaves_first_tokens_unasked_and_says_how_many(made, ask):
    subject = made.subject(made.untrained(), made.tokens(made.words(3, 1), [[3, 4, 2], [5, 6, 2]]))
    assert ask(heldout_loss.loss_probes(SETTINGS)["heldout"], subject)["unasked"] == 2


def test_curves_end_at_the_mean_loss(good):
    recorder = MetricRecorder()
    heldout_loss.loss_probes(SETTINGS)["heldout"](good, recorder)
    by_document = next(s for s in recorder.series if s.name == "by_document")
    assert list(by_document.y_values["net"]) == sorted(by_document.y_values["net"])
    assert len(by_document.x_values) == recorder.metrics["documents"].value
    by_place = next(s for s in recorder.series if s.name == "by_place")
    assert len(by_place.x_values) == len(by_place.y_values["net"]) == 16


def test_what_stands_verbatim_in_training_is_left_out_of_the_novel_loss(made, ask):
    """Of two held-out documents one stands in training: its letters cost next to nothing, the other's cost ln 29 each."""
    alphabet = [*range(3, 29), *range(3, 29)]
    other = [1, *[3, 5, 9, 4, 20, 3, 3, 28, 7, 6] * 3, 2]
    tokens = made.tokens([[1, *alphabet, 2], *made.words(5, 1)], [[1, *alphabet, 2], other])

    class Reciter(Fixed):
        def forward(self, tokens_BT):
            logits_BTV = torch.zeros(*tokens_BT.shape, 29)
            following_BT = torch.where(tokens_BT == 28, 3, tokens_BT + 1)
            reciting_B1 = tokens_BT[:, 2:3] == 4
            return torch.where(reciting_B1[..., None], 10.0 * nn.functional.one_hot(following_BT.clamp(max=28), 29), logits_BTV)

    subject = made.subject(Reciter([1 / 29] * 29), tokens, 64)
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], subject)
    assert figures["novel.targets"] == 31
    assert figures["novel.nats"] == pytest.approx(math.log(29), rel=1e-5)
    assert figures["nats"] < 0.6 * figures["novel.nats"]


def test_where_nothing_is_novel_no_novel_loss_is_claimed(made, ask):
    document = [1, *range(3, 29), *range(3, 29), 2]
    subject = made.subject(made.untrained(), made.tokens([document], [document]))
    figures = ask(heldout_loss.loss_probes(SETTINGS)["heldout"], subject)
    assert figures["novel.targets"] == 0
    assert "novel.nats" not in figures
