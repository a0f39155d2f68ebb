"""Build batches from token arrays in an order given by seed and epoch.

The data-loader state is therefore one integer: the number of sequences drawn. Shapes: B sequences, T positions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.config import parse_config
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.interfaces import Augmentation
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE, Batch, TokenBatch
from provenlm.training.config import TrainConfig


class SequenceSource(Protocol):
    """Cut a split into sequences.

    `len` counts them; `get_batch(indices)` returns some of them as a batch.
    """

    def __len__(self) -> int: ...

    def get_batch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the batch of the given sequences."""
        ...


class DomainBatches(Protocol):
    """Define what a domain may bring to training: a TokenizeSpec does.

    `sequences(split, dataset, config)` returns the domain's own batches, or None for the packings of `data_packing`;
    `augmentation(dataset, config)` changes training batches.
    """

    @property
    def batch_config_type(self) -> type:
        """Return the type of `train.batches`."""

    @property
    def sequences(self) -> Callable[[DatasetSplit, TokenDataset, TrainConfig], SequenceSource | None] | None:
        """Return the function that cuts a split."""

    @property
    def augmentation(self) -> Callable[[TokenDataset, TrainConfig], Augmentation | None] | None:
        """Return the function that builds the augmentation."""


@dataclass(frozen=True)
class ConcatChunks:
    """Cut the concatenated documents every `seq_len` tokens.

    Every token is an input once; the first token of a document is no target. `block_diagonal_mask`: attention stays within a document.
    """

    split: DatasetSplit
    seq_len: int
    block_diagonal_mask: bool

    def __len__(self) -> int:
        return max(0, -(-(len(self.split.ids) - 1) // self.seq_len))

    def get_batch(self, indices: NDArray[np.int64]) -> TokenBatch:
        """Return the chunks; the last chunk is padded with id 0 and targets without loss."""
        positions_BT = indices[:, None] * self.seq_len + np.arange(self.seq_len)
        last_index = len(self.split.ids) - 1
        inputs_BT = self.split.ids[np.minimum(positions_BT, last_index)].astype(np.int64)
        targets_BT = self.split.ids[np.minimum(positions_BT + 1, last_index)].astype(np.int64)
        next_starts_BT = self.split.doc_offsets[
            np.searchsorted(self.split.doc_offsets, positions_BT + 1).clip(max=len(self.split.doc_offsets) - 1)
        ]
        targets_BT[(positions_BT >= last_index) | (next_starts_BT == positions_BT + 1)] = IGNORE
        inputs_BT[positions_BT >= last_index] = 0
        return TokenBatch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT), self._document_ids(positions_BT))

    def _document_ids(self, positions_BT: NDArray[np.int64]) -> torch.Tensor | None:
        """Number the documents of a batch.

        Returns None if no sequence holds two documents: attention is then plain causal, which is faster.
        """
        if not self.block_diagonal_mask:
            return None
        documents_BT = np.searchsorted(self.split.doc_offsets, positions_BT, side="right")
        has_boundary = (documents_BT[:, 0] != documents_BT[:, -1]).any()
        return torch.from_numpy(documents_BT) if has_boundary else None


@dataclass(frozen=True)
class PaddedDocuments:
    """Give each document a sequence of its own, padded to the longest of the batch."""

    split: DatasetSplit
    pad_id: int

    def __len__(self) -> int:
        return len(self.split.doc_offsets) - 1

    def get_batch(self, indices: NDArray[np.int64]) -> TokenBatch:
        """Return the documents, padded with `pad_id`; padding carries no loss."""
        documents = [self.split.ids[self.split.doc_offsets[i] : self.split.doc_offsets[i + 1]].astype(np.int64) for i in indices]
        max_len = max(len(document) for document in documents) - 1
        inputs_BT = np.full((len(documents), max_len), self.pad_id, np.int64)
        targets_BT = np.full((len(documents), max_len), IGNORE, np.int64)
        for inputs_T, targets_T, document in zip(inputs_BT, targets_BT, documents, strict=True):
            inputs_T[: len(document) - 1] = document[:-1]
            targets_T[: len(document) - 1] = document[1:]
        return TokenBatch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT))


@dataclass(frozen=True)
class DataLoader:
    """Draw shuffled training batches and hold the fixed validation batches."""

    sequences: SequenceSource
    seed: int
    val_batches: Sequence[Batch]
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None

    def batch_at(self, start: int, num_sequences: int) -> Batch:
        """Return `num_sequences` training sequences from number `start` on, augmented.

        `start` counts from the start of training; a batch may reach into the next epoch.
        """
        batch = self.sequence_batch(start, num_sequences)
        return batch if self.augmentation is None else _augmented(batch, self.augmentation, start)

    def sequence_batch(self, start: int, num_sequences: int) -> Batch:
        """Return the sequences of `batch_at` as they are in the corpus."""
        return self.sequences.get_batch(sequence_indices(start, num_sequences, len(self.sequences), self.seed))

    def train_batch(self, start: int, num_sequences: int) -> Batch:
        """Return `batch_at` with the label smoothing of training."""
        batch = self.batch_at(start, num_sequences)
        return _smoothed(batch, self.label_smoothing) if self.label_smoothing else batch


def _augmented(batch: Any, augmentation: Augmentation, start: int) -> Any:
    """Return the augmented batch of the sequences from number `start` on.

    Raises ValueError if its shape differs.
    """
    augmented = augmentation.apply(batch, np.arange(start, start + batch.num_sequences))
    if (augmented.num_sequences, augmented.seq_len) != (batch.num_sequences, batch.seq_len):
        raise ValueError(
            f"an augmentation must keep the shape {batch.num_sequences} × {batch.seq_len}, "
            f"got {augmented.num_sequences} × {augmented.seq_len}"
        )
    return augmented


def _smoothed(batch: Any, label_smoothing: float) -> Any:
    """Return the batch with the field `label_smoothing` set."""
    return replace(batch, label_smoothing=label_smoothing)


def sequence_indices(start: int, count: int, num_sequences: int, seed: int) -> NDArray[np.int64]:
    """Return `count` indices of the endless shuffled stream of epochs from `start`."""
    return np.array(
        [
            epoch_permutation(num_sequences, seed, index // num_sequences)[index % num_sequences]
            for index in range(start, start + count)
        ],
        np.int64,
    )


@lru_cache(maxsize=2)
def epoch_permutation(num_sequences: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of 0 … num_sequences - 1."""
    permutation: NDArray[np.int64] = rng.make_rng(seed, "order", epoch).permutation(num_sequences)
    return permutation


def build_dataloader(dataset: TokenDataset, config: TrainConfig, domain_batches: DomainBatches | None = None) -> DataLoader:
    """Build the data loader of a config.

    Raises ConfigError or DataError if the tokens do not fit the config.
    """
    if domain_batches is not None:
        parse_config(domain_batches.batch_config_type, config.batches, "train.batches")
    sequences = _sequence_source(dataset.train, dataset, config, domain_batches)
    if not len(sequences):
        raise DataError("the training split has no sequence: the corpus must have at least one document of two tokens")
    if config.label_smoothing and not hasattr(sequences.get_batch(np.array([0])), "label_smoothing"):
        raise ConfigError(f"train.label_smoothing must be 0.0 for the batches of this domain, got {config.label_smoothing}")
    build_augmentation = None if domain_batches is None else domain_batches.augmentation
    augmentation = None if build_augmentation is None else build_augmentation(dataset, config)
    return DataLoader(sequences, config.seed, _val_batches(dataset, config, domain_batches), config.label_smoothing, augmentation)


def resolve_max_steps(config: TrainConfig, dataset: TokenDataset, domain_batches: DomainBatches | None = None) -> TrainConfig:
    """Convert a duration in epochs or tokens into `max_steps`.

    Takes the fewest steps that reach the epochs or, on average, the number of targets. Raises ConfigError if the learning-rate schedule
    does not fit into them.
    """
    if config.max_steps is not None:
        return config
    num_sequences = len(_sequence_source(dataset.train, dataset, config, domain_batches))
    num_targets = len(dataset.train.ids) - (len(dataset.train.doc_offsets) - 1)
    epochs = config.epochs if config.max_tokens is None else config.max_tokens / max(num_targets, 1)
    assert epochs is not None, "TrainConfig checks that one duration is set"
    steps = max(1, math.ceil(round(epochs * num_sequences / config.global_batch_size, 6)))
    try:
        return replace(config, max_steps=steps, epochs=None, max_tokens=None)
    except ValueError as error:
        raise ConfigError(f"train.{error} ({config.duration})") from None


def _sequence_source(
    split: DatasetSplit, dataset: TokenDataset, config: TrainConfig, domain_batches: DomainBatches | None
) -> SequenceSource:
    """Cut a split into the domain's own sequences, or pack it as `data_packing` says."""
    cut_split = None if domain_batches is None else domain_batches.sequences
    own_sequences = None if cut_split is None else cut_split(split, dataset, config)
    if own_sequences is not None:
        if config.seq_len_schedule is not None:
            raise ConfigError("train.seq_len_schedule must be null for a domain with batches of its own")
        return own_sequences
    if config.data_packing != "padded":
        return ConcatChunks(split, config.seq_len, config.data_packing == "packed")
    if "pad" not in dataset.special_tokens:
        raise ConfigError(
            "train.data_packing must be concat_and_chunk or packed, got padded: the tokenizer of this corpus has no 'pad' token"
        )
    lengths = np.diff(split.doc_offsets)
    if len(lengths) and lengths.min() < 2:
        raise DataError(f"train.data_packing: padded needs documents of at least 2 tokens, the shortest has {lengths.min()}")
    if len(lengths) and lengths.max() > config.seq_len + 1:
        raise ConfigError(
            f"train.seq_len must be >= {lengths.max() - 1} with data_packing: padded "
            f"(the longest document has {lengths.max()} tokens), got {config.seq_len}"
        )
    return PaddedDocuments(split, dataset.special_tokens["pad"])


def _val_batches(dataset: TokenDataset, config: TrainConfig, domain_batches: DomainBatches | None) -> list[Batch]:
    """Build batches of evenly spaced sequences of the validation split."""
    if config.eval is None:
        return []
    sequences = _sequence_source(dataset.val, dataset, config, domain_batches)
    if not len(sequences):
        raise ConfigError("train.eval must be null, because the validation split is empty (raise tokenize.val_fraction to fill it)")
    count = min(config.eval.num_sequences, len(sequences))
    sample_indices = np.linspace(0, len(sequences) - 1, count).round().astype(np.int64)
    return [
        sequences.get_batch(chunk)
        for chunk in np.split(sample_indices, range(config.max_micro_batch_size, count, config.max_micro_batch_size))
    ]
