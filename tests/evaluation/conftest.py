"""Provide tiny models, correct and faulty ones, and small datasets for the tests of probes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.evaluation.probe import EvalContext, Probe

SPECIAL = {"pad": 0, "bos": 1, "eos": 2}


@pytest.fixture(autouse=True)
def use_one_thread() -> None:
    torch.set_num_threads(1)


class Letters:
    """Tokenize capital letters: A is 3."""

    vocabulary = 29
    special = SPECIAL

    def encode(self, records: Sequence[Any]) -> list[Any]:
        return [np.array(self.encode_prompt(record.text)[1:], np.uint32) for record in records]

    def decode(self, ids: Sequence[int]) -> bytes:
        return bytes(62 + i for i in ids if i > 2)

    def describe(self, ids: Sequence[int]) -> str:
        return self.decode(ids).decode()

    def encode_prompt(self, text: str) -> list[int]:
        return [1, *(ord(c) - 62 for c in text)]


class Tiny(nn.Module):
    """Compute logits from the token, its predecessor and a mean of embeddings; `fault` names a planted fault.

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
        current_BTD = self.embedding(tokens_BT)
        previous_BTD = F.pad(current_BTD, (0, 0, 1, 0))[:, :-1]
        length = tokens_BT.shape[1]
        count_T1 = torch.arange(1, length + 1)[:, None]
        mean_BTD = current_BTD.cumsum(1) / count_T1
        if self.fault == "all":
            mean_BTD = current_BTD.mean(1, keepdim=True).expand_as(current_BTD)
        if self.fault == "peek":
            previous_BTD = F.pad(current_BTD, (0, 0, 0, 1))[:, 1:]
        if self.fault == "length":
            mean_BTD = current_BTD.cumsum(1) / length
        if self.fault == "deaf":
            current_BTD = previous_BTD = mean_BTD = torch.zeros_like(current_BTD)
        return self.head(torch.tanh(self.mix(torch.cat([current_BTD, previous_BTD, mean_BTD], -1))))


def make_split(documents: Sequence[Sequence[int]], names: Sequence[str], sizes: Sequence[int] | None = None) -> DatasetSplit:
    starts = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    ids = np.array([token for document in documents for token in document], np.uint16)
    lengths = np.array([len(d) - 2 for d in documents] if sizes is None else sizes, np.int64)
    return DatasetSplit(ids, starts, list(names), lengths, [f"cluster of {name}" for name in names])


def make_documents(count: int, seed: int) -> list[list[int]]:
    """Return documents of 20 to 60 letters in which each letter is mostly followed by the third next one."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        letters = [int(generator.integers(26))]
        while len(letters) < generator.integers(20, 60):
            letters.append((letters[-1] + 3) % 26 if generator.random() < 0.9 else int(generator.integers(26)))
        documents.append([1, *(3 + letter for letter in letters), 2])
    return documents


def make_dataset(train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], vocabulary: int = 29) -> TokenDataset:
    return TokenDataset(
        make_split(train, [f"t{n}" for n in range(len(train))]),
        make_split(val, [f"v{n}" for n in range(len(val))]),
        vocabulary,
        SPECIAL,
    )


def train_tiny(tokens: TokenDataset, length: int, fault: str = "", shift: int = 1, steps: int = 250) -> nn.Module:
    """Train a Tiny model with Adam on the training split; targets lie `shift` tokens ahead."""
    torch.manual_seed(0)
    model = Tiny(tokens.vocab_size, fault)
    ids = torch.from_numpy(np.asarray(tokens.train.ids).astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        first = generator.integers(0, len(ids) - length - shift, 16)
        rows = torch.stack([ids[n : n + length + shift] for n in first])
        loss = F.cross_entropy(model(rows[:, :length]).flatten(0, 1), rows[:, shift:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def untrained_tiny(vocabulary: int = 29, fault: str = "") -> nn.Module:
    torch.manual_seed(0)
    return Tiny(vocabulary, fault).eval()


def no_train_batch(num_sequences: int) -> Any:
    raise AssertionError("token models are checked on random tokens")


def make_context(model: nn.Module, tokens: TokenDataset, max_seq_len: int = 16, **overrides: Any) -> EvalContext:
    num_params = sum(p.numel() for p in model.parameters())
    fields: dict[str, Any] = {
        "model": model,
        "logits": lambda model, tokens_BT: model(tokens_BT),
        "logits_with_cache": None,
        "build_untrained": lambda: untrained_tiny(tokens.vocab_size),
        "build_small": lambda vocabulary: Tiny(vocabulary, width=12),
        "losses": lambda model, batch: {
            "next_token": F.cross_entropy(model(batch.inputs_BT).flatten(0, 1), batch.targets_BT.flatten())
        },
        "to_hf": None,
        "train_batch": no_train_batch,
        "analytic_counts": {"all of it": num_params, "total": num_params, "active": num_params},
        "tokenizer": Letters(),
        "tokens": tokens,
        "max_seq_len": max_seq_len,
        "seed": 1,
    }
    return EvalContext(**{**fields, **overrides})


class ContextFactory:
    """Give tests what they need to make their own contexts."""

    Tiny, Letters = Tiny, Letters
    split, dataset, documents = staticmethod(make_split), staticmethod(make_dataset), staticmethod(make_documents)
    trained, untrained, context = staticmethod(train_tiny), staticmethod(untrained_tiny), staticmethod(make_context)


@pytest.fixture
def factory() -> type[ContextFactory]:
    return ContextFactory


@pytest.fixture(scope="session")
def corpus() -> TokenDataset:
    return make_dataset(make_documents(60, 1), make_documents(12, 2))


@pytest.fixture(scope="session")
def trained_context(corpus: TokenDataset) -> EvalContext:
    """Return the context of a causal model trained on the corpus."""
    return make_context(train_tiny(corpus, 16), corpus)


@pytest.fixture
def run_probe() -> Callable[..., dict[str, Any]]:
    """Return a function that runs one probe and returns its metrics by name."""
    from provenlm.core.audit import MetricRecorder

    def run(probe: Probe, context: EvalContext) -> dict[str, Any]:
        recorder = MetricRecorder()
        probe.run(context, recorder)
        return {name: metric.value for name, metric in recorder.metrics.items()}

    return run
