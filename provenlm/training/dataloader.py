"""Token arrays and a position in, batches out. The order of rows is a function of (seed, epoch) alone, so a position is one integer.

Shapes: B rows, T positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.errors import ProvenlmError
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.training.config import TrainConfig


class SequenceSource(Protocol):
    """A split cut into rows: `len` of them, `take(indices)` as a batch."""

    def __len__(self) -> int: ...

    def get_batch(self, indices: NDArray[np.int64]) -> Batch: ...


@dataclass(frozen=True)
class ConcatChunks:
    """The flat stream, cut every `length` tokens: every token is an input once. The first token of a document is no target.

    `bordered`: what stands in one row but in another document is not to be looked at.
    """

    split: DatasetSplit
    seq_len: int
    block_diagonal_mask: bool

    def __len__(self) -> int:
        return max(0, -(-(len(self.split.ids) - 1) // self.seq_len))

    def get_batch(self, indices: NDArray[np.int64]) -> Batch:
        """The last window is padded with id 0 and targets that carry no loss."""
        positions_BT = indices[:, None] * self.seq_len + np.arange(self.seq_len)
        last_index = len(self.split.ids) - 1
        inputs_BT = self.split.ids[np.minimum(positions_BT, last_index)].astype(np.int64)
        targets_BT = self.split.ids[np.minimum(positions_BT + 1, last_index)].astype(np.int64)
        next_starts_BT = self.split.doc_offsets[
            np.searchsorted(self.split.doc_offsets, positions_BT + 1).clip(max=len(self.split.doc_offsets) - 1)
        ]
        targets_BT[(positions_BT >= last_index) | (next_starts_BT == positions_BT + 1)] = IGNORE
        inputs_BT[positions_BT >= last_index] = 0
        return Batch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT), self._document_ids(positions_BT))

    def _document_ids(self, positions_BT: NDArray[np.int64]) -> torch.Tensor | None:
        """None where no row holds more than one: attention that only looks back takes a faster way."""
        if not self.block_diagonal_mask:
            return None
        documents_BT = np.searchsorted(self.split.doc_offsets, positions_BT, side="right")
        has_boundary = (documents_BT[:, 0] != documents_BT[:, -1]).any()
        return torch.from_numpy(documents_BT) if has_boundary else None


@dataclass(frozen=True)
class PaddedDocuments:
    """One document a row, from its first token, padded with `pad` to the longest of the batch."""

    split: DatasetSplit
    pad_id: int

    def __len__(self) -> int:
        return len(self.split.doc_offsets) - 1

    def get_batch(self, indices: NDArray[np.int64]) -> Batch:
        documents = [self.split.ids[self.split.doc_offsets[i] : self.split.doc_offsets[i + 1]].astype(np.int64) for i in indices]
        max_len = max(len(document) for document in documents) - 1
        inputs_BT = np.full((len(documents), max_len), self.pad_id, np.int64)
        targets_BT = np.full((len(documents), max_len), IGNORE, np.int64)
        for inputs_T, targets_T, document in zip(inputs_BT, targets_BT, documents, strict=True):
            inputs_T[: len(document) - 1] = document[:-1]
            targets_T[: len(document) - 1] = document[1:]
        return Batch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT))


@dataclass(frozen=True)
class DataLoader:
    """What `fit` draws from: rows of the training split in a shuffled order, and fixed held-out batches."""

    sequences: SequenceSource
    seed: int
    val_batches: Sequence[Batch]

    def batch_at(self, start: int, num_sequences: int) -> Batch:
        """The `count` rows from `position` on, counted from the beginning of training; a batch may reach into the next epoch."""
        return self.sequences.get_batch(sequence_indices(start, num_sequences, len(self.sequences), self.seed))


def sequence_indices(start: int, count: int, num_sequences: int, seed: int) -> NDArray[np.int64]:
    """Which rows lie at `position` … `position + count - 1` of the endless shuffled stream of epochs."""
    return np.array(
        [
            epoch_permutation(num_sequences, seed, index // num_sequences)[index % num_sequences]
            for index in range(start, start + count)
        ],
        np.int64,
    )


@lru_cache(maxsize=2)
def epoch_permutation(num_sequences: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of 0 … rows - 1."""
    permutation: NDArray[np.int64] = rng.make_rng(seed, "order", epoch).permutation(num_sequences)
    return permutation


def build_dataloader(dataset: TokenDataset, config: TrainConfig) -> DataLoader:
    """The batches that `settings` ask for. ProvenlmError if the tokens cannot give them."""
    sequences = _sequence_source(dataset.train, dataset.special_tokens, config)
    if not len(sequences):
        raise ProvenlmError("the training split holds no rows; the corpus needs at least one document of two tokens")
    return DataLoader(sequences, config.seed, _val_batches(dataset, config))


def resolve_max_steps(config: TrainConfig, dataset: TokenDataset) -> TrainConfig:
    """The same with a duration in steps: the fewest that reach the epochs or, on average, the targets that are asked for.

    ProvenlmError if the schedule does not fit into them.
    """
    if config.max_steps is not None:
        return config
    num_sequences, num_targets = (
        len(_sequence_source(dataset.train, dataset.special_tokens, config)),
        len(dataset.train.ids) - (len(dataset.train.doc_offsets) - 1),
    )
    epochs = config.epochs if config.max_tokens is None else config.max_tokens / max(num_targets, 1)
    assert epochs is not None, "one of the three is given"
    steps = max(1, math.ceil(round(epochs * num_sequences / config.global_batch_size, 6)))
    try:
        return replace(config, steps=steps, epochs=None, tokens=None)
    except ValueError as error:
        raise ProvenlmError(f"train: {error}") from None


def _sequence_source(split: DatasetSplit, special_tokens: Any, config: TrainConfig) -> SequenceSource:
    if config.data_packing != "documents":
        return ConcatChunks(split, config.seq_len, config.data_packing == "packed")
    if "pad" not in special_tokens:
        raise ProvenlmError("train.batches: documents need a codec with a 'pad' token; for this corpus windows would be right")
    lengths = np.diff(split.doc_offsets)
    if len(lengths) and (lengths.max() > config.seq_len + 1 or lengths.min() < 2):
        raise ProvenlmError(
            f"train.length: {config.seq_len}; documents of {lengths.min()} to {lengths.max()} tokens need a length of "
            f"{max(lengths.max() - 1, 1)} and at least 2 tokens each"
        )
    return PaddedDocuments(split, special_tokens["pad"])


def _val_batches(dataset: TokenDataset, config: TrainConfig) -> list[Batch]:
    if config.eval is None:
        return []
    sequences = _sequence_source(dataset.val, dataset.special_tokens, config)
    if not len(sequences):
        raise ProvenlmError("train.held_out: the validation split is empty; null would be right, or a larger split at tokenize")
    count = min(config.eval.num_sequences, len(sequences))
    sample_indices = np.linspace(0, len(sequences) - 1, count).round().astype(np.int64)
    return [
        sequences.get_batch(chunk)
        for chunk in np.split(sample_indices, range(config.max_micro_batch_size, count, config.max_micro_batch_size))
    ]
