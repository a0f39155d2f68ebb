import numpy as np
import pytest
import torch

from provenlm.evaluation.token_loss import make_windows, sample_documents, sequence_losses, token_losses

DOCUMENTS = [[1, 3, 4, 5, 6, 7, 2], [1, 8, 2], [1, 2], [1, *range(3, 20), 2]]


def loss_by_hand(model, documents, length):
    """Target by target, each in a forward pass of its own."""
    found = []
    for document in documents:
        for place in range(1, len(document)):
            first = (place - 1) // length * length
            with torch.no_grad():
                logits = model(torch.tensor([document[first:place]]))[0, -1]
            found.append(float(-logits.log_softmax(-1)[document[place]]))
    return found


@pytest.fixture
def four(made):
    return made.tokens(DOCUMENTS, DOCUMENTS)


def everything(subject, batch_tokens):
    split = subject.tokens.val
    return token_losses(subject, split, make_windows(split, subject.length, np.arange(len(split.record_ids))), batch_tokens, "test")


def test_every_token_but_the_first_of_each_document_is_counted_exactly_once(made, four):
    index = everything(made.subject(made.untrained(), four, 4), 8).token_index
    assert sorted(index) == [n for n in range(len(four.val.ids)) if n not in four.val.starts]


def test_the_loss_of_each_target_is_the_one_computed_alone(made, four):
    model = made.untrained()
    losses = everything(made.subject(model, four, 4), 8)
    np.testing.assert_allclose(losses.nats, loss_by_hand(model, DOCUMENTS, 4), rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 7, 1000])
def test_how_much_goes_forward_at_once_does_not_matter(made, four, batch_tokens):
    subject = made.subject(made.untrained(), four, 4)
    np.testing.assert_allclose(everything(subject, batch_tokens).nats, everything(subject, 4).nats, rtol=1e-5)


def test_a_target_is_right_where_it_is_the_argmax(made, four):
    model = made.untrained()
    losses = everything(made.subject(model, four, 100), 50)
    with torch.no_grad():
        best = [model(torch.tensor([document[:-1]]))[0].argmax(-1).tolist() for document in DOCUMENTS]
    expected = [a == b for document, row in zip(DOCUMENTS, best, strict=True) for a, b in zip(row, document[1:], strict=True)]
    assert losses.correct.tolist() == expected


def test_windows_never_cross_a_document(four):
    rows = make_windows(four.val, 4, np.arange(4))
    assert rows.starts.tolist() == [0, 4, 7, 10, 12, 16, 20, 24, 28]
    assert rows.stops.tolist() == [4, 6, 9, 11, 16, 20, 24, 28, 30]
    assert rows.documents.tolist() == [0, 0, 1, 2, 3, 3, 3, 3, 3]


def test_documents_are_drawn_until_they_hold_enough_targets(four):
    assert sample_documents(four.val, 10**6, 0).tolist() == [0, 1, 2, 3]
    some = sample_documents(four.val, 1, 0)
    assert len(some) == 1
    assert sample_documents(four.val, 1, 0).tolist() == some.tolist()


def test_rows_of_our_own_are_measured_like_documents(made, four):
    model = made.untrained()
    found = sequence_losses(made.subject(model, four, 10), [[5, 6, 7], [8, 9]], 100, "test")
    np.testing.assert_allclose(found.nats, loss_by_hand(model, [[5, 6, 7], [8, 9]], 10), rtol=1e-5)
    assert found.document.tolist() == [0, 0, 1]


def test_a_row_longer_than_the_training_saw_is_refused(made, four):
    with pytest.raises(ValueError, match="2 to 5 tokens"):
        sequence_losses(made.subject(made.untrained(), four, 4), [[1, 3, 4, 5, 6, 7]], 100, "test")
