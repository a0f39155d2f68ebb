"""Test the loss of every target against one forward pass per target."""

import numpy as np
import pytest
import torch

from provenlm.evaluation.token_loss import make_windows, sample_documents, sequence_losses, token_losses

DOCUMENTS = [[1, 3, 4, 5, 6, 7, 2], [1, 8, 2], [1, 2], [1, *range(3, 20), 2]]


def losses_one_by_one(model, documents, length):
    """Compute the loss of each target in a forward pass of its own."""
    losses = []
    for document in documents:
        for position in range(1, len(document)):
            first = (position - 1) // length * length
            with torch.no_grad():
                logits = model(torch.tensor([document[first:position]]))[0, -1]
            losses.append(float(-logits.log_softmax(-1)[document[position]]))
    return losses


@pytest.fixture
def four_documents(factory):
    return factory.dataset(DOCUMENTS, DOCUMENTS)


def all_losses(context, batch_tokens):
    split = context.tokens.val
    return token_losses(
        context, split, make_windows(split, context.max_seq_len, np.arange(len(split.record_ids))), batch_tokens, "test"
    )


def test_all_tokens_but_the_first_of_a_document_are_targets_once(factory, four_documents):
    index = all_losses(factory.context(factory.untrained(), four_documents, 4), 8).token_index
    assert sorted(index) == [n for n in range(len(four_documents.val.ids)) if n not in four_documents.val.doc_offsets]


def test_the_loss_of_each_target_is_the_one_computed_alone(factory, four_documents):
    model = factory.untrained()
    losses = all_losses(factory.context(model, four_documents, 4), 8)
    np.testing.assert_allclose(losses.nats, losses_one_by_one(model, DOCUMENTS, 4), rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 7, 1000])
def test_how_much_goes_forward_at_once_does_not_matter(factory, four_documents, batch_tokens):
    context = factory.context(factory.untrained(), four_documents, 4)
    np.testing.assert_allclose(all_losses(context, batch_tokens).nats, all_losses(context, 4).nats, rtol=1e-5)


def test_a_target_is_right_where_it_is_the_argmax(factory, four_documents):
    model = factory.untrained()
    losses = all_losses(factory.context(model, four_documents, 100), 50)
    with torch.no_grad():
        best = [model(torch.tensor([document[:-1]]))[0].argmax(-1).tolist() for document in DOCUMENTS]
    expected = [a == b for document, row in zip(DOCUMENTS, best, strict=True) for a, b in zip(row, document[1:], strict=True)]
    assert losses.correct.tolist() == expected


def test_windows_never_cross_a_document(four_documents):
    windows = make_windows(four_documents.val, 4, np.arange(4))
    assert windows.starts.tolist() == [0, 4, 7, 10, 12, 16, 20, 24, 28]
    assert windows.stops.tolist() == [4, 6, 9, 11, 16, 20, 24, 28, 30]
    assert windows.documents.tolist() == [0, 0, 1, 2, 3, 3, 3, 3, 3]


def test_documents_are_sampled_until_they_hold_enough_targets(four_documents):
    assert sample_documents(four_documents.val, 10**6, 0).tolist() == [0, 1, 2, 3]
    sampled = sample_documents(four_documents.val, 1, 0)
    assert len(sampled) == 1
    assert sample_documents(four_documents.val, 1, 0).tolist() == sampled.tolist()


def test_sequences_are_measured_like_documents(factory, four_documents):
    model = factory.untrained()
    losses = sequence_losses(factory.context(model, four_documents, 10), [[5, 6, 7], [8, 9]], 100, "test")
    np.testing.assert_allclose(losses.nats, losses_one_by_one(model, [[5, 6, 7], [8, 9]], 10), rtol=1e-5)
    assert losses.document.tolist() == [0, 0, 1]


def test_a_sequence_longer_than_the_training_is_refused(factory, four_documents):
    with pytest.raises(ValueError, match="2 to 5 tokens"):
        sequence_losses(factory.context(factory.untrained(), four_documents, 4), [[1, 3, 4, 5, 6, 7]], 100, "test")
