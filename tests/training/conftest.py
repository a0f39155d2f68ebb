"""Provide small token datasets and configs to train with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.moe.config import MoEConfig
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import CheckpointConfig, LRScheduleConfig, OptimizerConfig, ParamGroupConfig, TrainEvalConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: tests compare bits, and the number of threads changes the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def split_of(documents: Sequence[Sequence[int]]) -> DatasetSplit:
    ids = np.array([token for document in documents for token in document], np.uint16)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(d) for d in documents], dtype=np.int64)])
    return DatasetSplit(ids, starts, [str(i) for i in range(len(documents))], np.array([len(d) for d in documents], np.int64))


@pytest.fixture
def make_split() -> Callable[[Sequence[Sequence[int]]], DatasetSplit]:
    return split_of


@pytest.fixture
def dataset() -> TokenDataset:
    """Return 24 training and 6 validation documents of 3 to 12 tokens; vocab_size 20 (0 pad, 2 bos, 3 eos)."""
    draw = np.random.default_rng(1)
    documents = [[2, *draw.integers(4, 20, 1 + i % 10).tolist(), 3] for i in range(30)]
    return TokenDataset(split_of(documents[:24]), split_of(documents[24:]), 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3})


@pytest.fixture
def model_config() -> MoEConfig:
    return MoEConfig(16, 2, 2, 1, 4, 2, 16, 32, True, 10_000.0, 1e-5, 0.1, "aux_loss", 0.01, 0.001)


@pytest.fixture
def make_config() -> Callable[..., TrainConfig]:
    adamw = ParamGroupConfig("adamw", 0.01, (0.9, 0.95), 0.0)
    optimizer = OptimizerConfig(adamw, ParamGroupConfig("muon", 0.02, (0.95,), 0.01), adamw, 1.0)
    default_config = TrainConfig(
        seed=1,
        device="cpu",
        threads=1,
        precision="fp32",
        data_packing="concat_and_chunk",
        seq_len=8,
        global_batch_size=8,
        micro_batch_size=4,
        activation_checkpointing=None,
        compile=False,
        max_steps=12,
        label_smoothing=0.0,
        optimizer=optimizer,
        lr_schedule=LRScheduleConfig(2, 0, "linear", 0.0),
        ema_decay=None,
        eval=TrainEvalConfig(5, 4),
        checkpoints=CheckpointConfig(5, 2, None, False),
        spike_guard=None,
        reduce_lr_on_plateau=None,
        early_stopping=None,
        seq_len_schedule=None,
        sample=None,
        distributed=None,
        loggers=(),
    )

    def changed(**changes: Any) -> TrainConfig:
        return replace(default_config, **changes)

    return changed
