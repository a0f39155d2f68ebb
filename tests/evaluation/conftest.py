"""Tiny nets, right and wrong ones, and small corpora to ask probes about."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core.errors import ProvenlmError
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.evaluation.probe import EvalContext

SPECIAL = {"pad": 0, "bos": 1, "eos": 2}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Letters:
    """A codec of capital letters: A is 3."""

    vocabulary = 29
    special = SPECIAL

    def encode(self, records: Sequence[Any]) -> list[Any]:
        return [np.array(self.prompt(record.text)[1:], np.uint32) for record in records]

    def decode(self, ids: Sequence[int]) -> bytes:
        return bytes(62 + i for i in ids if i > 2)

    def prompt(self, text: str) -> list[int]:
        return [1, *(ord(c) - 62 for c in text)]


class Tiny(nn.Module):
    """Logits from the token, its predecessor and a mean of embeddings; `fault` says what is wrong with it.

    `all`: the mean is over the whole row. `peek`: it sees the next token. `length`: what it says depends on how long the row is.
    `deaf`: it does not look at its input.
    """

    def __init__(self, vocabulary: int, fault: str = "", width: int = 24) -> None:
        super().__init__()
        self.fault = fault
        self.embedding = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(3 * width, width)
        self.head = nn.Linear(width, vocabulary)
        nn.init.normal_(self.head.weight, 0, 0.01)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        here_BTD = self.embedding(tokens_BT)
        before_BTD = F.pad(here_BTD, (0, 0, 1, 0))[:, :-1]
        length = tokens_BT.shape[1]
        count_T1 = torch.arange(1, length + 1)[:, None]
        mean_BTD = here_BTD.cumsum(1) / count_T1
        if self.fault == "all":
            mean_BTD = here_BTD.mean(1, keepdim=True).expand_as(here_BTD)
        if self.fault == "peek":
            before_BTD = F.pad(here_BTD, (0, 0, 0, 1))[:, 1:]
        if self.fault == "length":
            mean_BTD = here_BTD.cumsum(1) / length
        if self.fault == "deaf":
            here_BTD = before_BTD = mean_BTD = torch.zeros_like(here_BTD)
        return self.head(torch.tanh(self.mix(torch.cat([here_BTD, before_BTD, mean_BTD], -1))))


def split_of(documents: Sequence[Sequence[int]], names: Sequence[str], sizes: Sequence[int] | None = None) -> DatasetSplit:
    starts = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    ids = np.array([token for document in documents for token in document], np.uint16)
    lengths = np.array([len(d) - 2 for d in documents] if sizes is None else sizes, np.int64)
    return DatasetSplit(ids, starts, list(names), lengths, [f"cluster of {name}" for name in names])


def words(count: int, seed: int) -> list[list[int]]:
    """Documents in which each letter is mostly followed by the one three on, 20 to 60 letters long."""
    draw = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        letters = [int(draw.integers(26))]
        while len(letters) < draw.integers(20, 60):
            letters.append((letters[-1] + 3) % 26 if draw.random() < 0.9 else int(draw.integers(26)))
        documents.append([1, *(3 + letter for letter in letters), 2])
    return documents


def tokens_of(train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], vocabulary: int = 29) -> TokenDataset:
    return TokenDataset(
        split_of(train, [f"t{n}" for n in range(len(train))]),
        split_of(val, [f"v{n}" for n in range(len(val))]),
        vocabulary,
        SPECIAL,
    )


def trained(tokens: TokenDataset, length: int, fault: str = "", shift: int = 1, steps: int = 250) -> nn.Module:
    """A Tiny net after `steps` of Adam on the training split; its targets lie `shift` tokens ahead."""
    torch.manual_seed(0)
    model = Tiny(tokens.vocab_size, fault)
    ids = torch.from_numpy(np.asarray(tokens.train.ids).astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        first = draw.integers(0, len(ids) - length - shift, 16)
        rows = torch.stack([ids[n : n + length + shift] for n in first])
        loss = F.cross_entropy(model(rows[:, :length]).flatten(0, 1), rows[:, shift:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def untrained(vocabulary: int = 29, fault: str = "") -> nn.Module:
    torch.manual_seed(0)
    return Tiny(vocabulary, fault).eval()


def unpublished(weights: Any) -> Any:
    raise ProvenlmError("nobody else has this net")


def subject_of(model: nn.Module, tokens: TokenDataset, length: int = 16, **changed: Any) -> EvalContext:
    size = sum(p.numel() for p in model.parameters())
    facts: dict[str, Any] = {
        "model": model,
        "logits": lambda net, tokens_BT: net(tokens_BT),
        "continued": None,
        "untrained": lambda: untrained(tokens.vocab_size),
        "small": lambda vocabulary: Tiny(vocabulary, width=12),
        "losses": lambda net, inputs_BT, targets_BT: {
            "next_token": F.cross_entropy(net(inputs_BT).flatten(0, 1), targets_BT.flatten())
        },
        "published": unpublished,
        "closed_form": {"all of it": size, "total": size, "active": size},
        "codec": Letters(),
        "tokens": tokens,
        "length": length,
        "seed": 1,
    }
    return EvalContext(**{**facts, **changed})


class Made:
    """What a test needs to make a subject of its own."""

    Tiny, Letters = Tiny, Letters
    split, tokens, words = staticmethod(split_of), staticmethod(tokens_of), staticmethod(words)
    trained, untrained, subject = staticmethod(trained), staticmethod(untrained), staticmethod(subject_of)


@pytest.fixture
def made() -> type[Made]:
    return Made


@pytest.fixture(scope="session")
def corpus() -> TokenDataset:
    return tokens_of(words(60, 1), words(12, 2))


@pytest.fixture(scope="session")
def good(corpus: TokenDataset) -> EvalContext:
    """A causal net that learned the corpus."""
    return subject_of(trained(corpus, 16), corpus)


@pytest.fixture
def ask() -> Callable[..., dict[str, Any]]:
    """Ask one probe; its figures by name."""
    from provenlm.core.audit import MetricRecorder

    def asked(probe: Callable[[EvalContext, MetricRecorder], None], subject: EvalContext) -> dict[str, Any]:
        recorder = MetricRecorder()
        probe(subject, recorder)
        return {name: figure.value for name, figure in recorder.metrics.items()}

    return asked
