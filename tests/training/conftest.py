"""Small token arrays and settings to train with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from provenlm.data.token_dataset import Split, Tokens
from provenlm.models.moe.config import Settings as Shape
from provenlm.training.config import Settings
from provenlm.training.config_sections import Checkpoints, Group, HeldOut, Optimizer, Schedule


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits are compared here, and another number of threads sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def split_of(documents: Sequence[Sequence[int]]) -> Split:
    ids = np.array([token for document in documents for token in document], np.uint16)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(d) for d in documents], dtype=np.int64)])
    return Split(ids, starts, [str(i) for i in range(len(documents))], np.array([len(d) for d in documents], np.int64))


@pytest.fixture
def split() -> Callable[[Sequence[Sequence[int]]], Split]:
    return split_of


@pytest.fixture
def tokens() -> Tokens:
    """24 documents of 3 to 12 tokens over a vocabulary of 20 (0 pads, 2 begins, 3 ends) to train on, 6 held out."""
    draw = np.random.default_rng(1)
    documents = [[2, *draw.integers(4, 20, 1 + i % 10).tolist(), 3] for i in range(30)]
    return Tokens(split_of(documents[:24]), split_of(documents[24:]), 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3})


@pytest.fixture
def shape() -> Shape:
    return Shape(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.1, "layerwise", 0.01, 0.001)


@pytest.fixture
def settings() -> Callable[..., Settings]:
    adamw = Group("adamw", 0.01, (0.9, 0.95), 0.0)
    optimizer = Optimizer(adamw, Group("muon", 0.02, (0.95,), 0.01), adamw, 1.0)
    usual = Settings(
        seed=1,
        device="cpu",
        threads=1,
        precision="fp32",
        batches="windows",
        length=8,
        batch=8,
        micro_batch=4,
        recompute=None,
        compile=False,
        steps=12,
        label_smoothing=0.0,
        optimizer=optimizer,
        schedule=Schedule(2, 0, "linear", 0.0),
        ema=None,
        held_out=HeldOut(5, 4),
        checkpoints=Checkpoints(5, 2, None, False),
        stability=None,
        plateau=None,
        early_stop=None,
        curriculum=None,
        samples=None,
        parallel=None,
        watch=(),
    )

    def changed(**changes: Any) -> Settings:
        return replace(usual, **changes)

    return changed
