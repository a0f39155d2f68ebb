"""Compare chunked cross-entropy with torch's own on all logits at once."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from provenlm.models.common.layers import cross_entropy as module
from provenlm.models.common.layers.cross_entropy import chunked_cross_entropy, cross_entropy

IGNORE = -100


@pytest.fixture(autouse=True)
def chunks_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.MAX_CHUNK_LOGITS, "cpu", 3 * 11)


def case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 8 states of width 3, 11 ids and two ignored targets: chunks of 3, 3 and 2 tokens."""
    draw = torch.Generator().manual_seed(6)
    states = torch.randn(8, 3, generator=draw, dtype=dtype).requires_grad_()
    head = torch.randn(11, 3, generator=draw, dtype=dtype).requires_grad_()
    targets = torch.randint(0, 11, (8,), generator=draw)
    targets[[2, 7]] = IGNORE
    return states, head, targets


def test_value_and_gradients_equal_those_of_unchunked_logits() -> None:
    states, head, targets = case(torch.float64)
    loss, reference = cross_entropy(states, head, targets, IGNORE), F.cross_entropy(states @ head.T, targets, ignore_index=IGNORE)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    for actual, expected in zip(
        torch.autograd.grad(3 * loss, (states, head)), torch.autograd.grad(3 * reference, (states, head)), strict=True
    ):
        assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_that_of_finite_differences() -> None:
    states, head, targets = case(torch.float64)
    assert gradcheck(lambda s, h: cross_entropy(s, h, targets, IGNORE), (states, head))


def test_without_gradients_the_value_is_the_same() -> None:
    states, head, targets = case(torch.float64)
    with torch.no_grad():
        assert cross_entropy(states, head, targets, IGNORE).item() == pytest.approx(
            F.cross_entropy(states @ head.T, targets, ignore_index=IGNORE).item(), rel=1e-12
        )


def test_under_autocast_the_loss_is_float32_and_close() -> None:
    states, head, targets = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(states, head, targets, IGNORE)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(states @ head.T, targets, ignore_index=IGNORE).item(), rel=0.02)
    assert states.grad is not None
    assert states.grad.dtype == torch.float32


def test_label_smoothing_equals_torchs_and_the_plain_loss_is_returned_too() -> None:
    states, head, targets = case(torch.float64)
    loss, plain = chunked_cross_entropy(states, head, targets, IGNORE, 0.1)
    reference = F.cross_entropy(states @ head.T, targets, ignore_index=IGNORE, label_smoothing=0.1)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    assert plain.item() == pytest.approx(F.cross_entropy(states @ head.T, targets, ignore_index=IGNORE).item(), rel=1e-12)
    assert not plain.requires_grad
    for actual, expected in zip(
        torch.autograd.grad(3 * loss, (states, head)), torch.autograd.grad(3 * reference, (states, head)), strict=True
    ):
        assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        assert [item.item() for item in chunked_cross_entropy(states, head, targets, IGNORE, 0.1)] == pytest.approx(
            [loss.item(), plain.item()], rel=1e-12
        )


class Softmaxes(TorchDispatchMode):
    """Record the input shapes of softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "softmax" in str(func):
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **kwargs or {})


def test_a_chunk_has_at_least_as_many_tokens_as_the_hidden_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.MAX_CHUNK_LOGITS, "cpu", 1)
    states, head, targets = case(torch.float32)
    with Softmaxes() as calls:
        cross_entropy(states, head, targets, IGNORE)
    assert calls.shapes == [(3, 11), (3, 11), (2, 11)]
