"""Measure what augmentation changes: training batches, and no validation batch."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core.audit import MetricRecorder
from provenlm.data.token_dataset import DatasetSplit
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.training.dataloader import DataLoader

NUM_SEQUENCES = 256  # training sequences that are compared with the corpus
NGRAM_TOKENS = 8  # a validation sequence is of the corpus if all its n-grams are


def record_augmentation(audit: MetricRecorder, dataloader: DataLoader, val_split: DatasetSplit) -> None:
    """Record the variants of a training sequence and what augmentation changed.

    That is the fraction of training sequences and the number of validation sequences that differ from the corpus.

    Without augmentation nothing is recorded.
    """
    if dataloader.augmentation is None:
        return
    description = f"Variants of a training sequence, made after the split: {dataloader.augmentation.description}"
    audit.add_count("augmentation.variants", dataloader.augmentation.num_variants, "variants", description)
    count = min(NUM_SEQUENCES, len(dataloader.sequences))
    num_changed = count_changed(dataloader.sequence_batch(0, count), dataloader.batch_at(0, count))
    description = f"Fraction of the first {count} training sequences that augmentation changed"
    audit.add_measurement("augmentation.changed", num_changed / count, "fraction", description)
    audit.add_check("augmentation.changed", "> 0", "augmentation changes nothing: switch it off in train.batches")
    num_altered = count_altered(dataloader.val_batches, val_split)
    description = (
        f"Validation sequences with {NGRAM_TOKENS} successive tokens that the validation split does not have: augmented ones"
    )
    audit.add_measurement("augmentation.heldout_changed", num_altered, "sequences", description)
    audit.add_check(
        "augmentation.heldout_changed", "== 0", "held-out sequences are augmented: the validation loss is of other data"
    )


def count_changed(original: Batch, augmented: Batch) -> int:
    """Count the sequences of a batch that differ in a tensor."""
    return sum(_differ(original.select(slice(n, n + 1)), augmented.select(slice(n, n + 1))) for n in range(original.num_sequences))


def _differ(first: Any, second: Any) -> bool:
    """Return whether two batches of one dataclass differ in a tensor."""
    pairs = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    return any(isinstance(value, Tensor) and not torch.equal(value, other) for value, other in pairs)


def count_altered(batches: Sequence[Batch], split: DatasetSplit) -> int:
    """Count the sequences with an n-gram of inputs that a split does not have.

    Batches without `inputs_BT` have none.
    """
    split_ngrams = np.unique(_ngrams(np.asarray(split.ids, np.int64)))
    return sum(not np.isin(_ngrams(inputs_T), split_ngrams).all() for batch in batches for inputs_T in _input_sequences(batch))


def _input_sequences(batch: Any) -> Iterator[NDArray[np.int64]]:
    """Yield the inputs of each sequence, up to the last one with a target."""
    if not hasattr(batch, "inputs_BT") or not hasattr(batch, "targets_BT"):
        return
    for inputs_T, targets_T in zip(batch.inputs_BT.numpy(), batch.targets_BT.numpy(), strict=True):
        positions = np.flatnonzero(targets_T != IGNORE)
        yield inputs_T[: positions[-1] + 1 if len(positions) else 0]


def _ngrams(ids_T: NDArray[np.int64]) -> NDArray[np.void]:
    """Return the n-grams of ids, each as one value; none for fewer ids."""
    if len(ids_T) < NGRAM_TOKENS:
        return np.zeros(0, f"V{8 * NGRAM_TOKENS}")
    windows = np.ascontiguousarray(sliding_window_view(ids_T, NGRAM_TOKENS))
    return windows.view(f"V{8 * NGRAM_TOKENS}").ravel()
