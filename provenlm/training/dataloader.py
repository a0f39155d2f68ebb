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
from provenlm.core.errors import UserError
from provenlm.data.token_dataset import Split, Tokens
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.training.config import Settings


class Rows(Protocol):
    """A split cut into rows: `len` of them, `take(indices)` as a batch."""

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Batch: ...


@dataclass(frozen=True)
class Windows:
    """The flat stream, cut every `length` tokens: every token is an input once. The first token of a document is no target.

    `bordered`: what stands in one row but in another document is not to be looked at.
    """

    split: Split
    length: int
    bordered: bool

    def __len__(self) -> int:
        return max(0, -(-(len(self.split.ids) - 1) // self.length))

    def take(self, indices: NDArray[np.int64]) -> Batch:
        """The last window is padded with id 0 and targets that carry no loss."""
        places_BT = indices[:, None] * self.length + np.arange(self.length)
        last = len(self.split.ids) - 1
        inputs_BT = self.split.ids[np.minimum(places_BT, last)].astype(np.int64)
        targets_BT = self.split.ids[np.minimum(places_BT + 1, last)].astype(np.int64)
        begins_BT = self.split.starts[np.searchsorted(self.split.starts, places_BT + 1).clip(max=len(self.split.starts) - 1)]
        targets_BT[(places_BT >= last) | (begins_BT == places_BT + 1)] = IGNORE
        inputs_BT[places_BT >= last] = 0
        return Batch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT), self._documents(places_BT))

    def _documents(self, places_BT: NDArray[np.int64]) -> torch.Tensor | None:
        """None where no row holds more than one: attention that only looks back takes a faster way."""
        if not self.bordered:
            return None
        documents_BT = np.searchsorted(self.split.starts, places_BT, side="right")
        several = (documents_BT[:, 0] != documents_BT[:, -1]).any()
        return torch.from_numpy(documents_BT) if several else None


@dataclass(frozen=True)
class Documents:
    """One document a row, from its first token, padded with `pad` to the longest of the batch."""

    split: Split
    pad: int

    def __len__(self) -> int:
        return len(self.split.starts) - 1

    def take(self, indices: NDArray[np.int64]) -> Batch:
        rows = [self.split.ids[self.split.starts[i] : self.split.starts[i + 1]].astype(np.int64) for i in indices]
        longest = max(len(row) for row in rows) - 1
        inputs_BT = np.full((len(rows), longest), self.pad, np.int64)
        targets_BT = np.full((len(rows), longest), IGNORE, np.int64)
        for inputs_T, targets_T, row in zip(inputs_BT, targets_BT, rows, strict=True):
            inputs_T[: len(row) - 1] = row[:-1]
            targets_T[: len(row) - 1] = row[1:]
        return Batch(torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT))


@dataclass(frozen=True)
class Batches:
    """What `fit` draws from: rows of the training split in a shuffled order, and fixed held-out batches."""

    rows: Rows
    seed: int
    held_out: Sequence[Batch]

    def take(self, position: int, count: int) -> Batch:
        """The `count` rows from `position` on, counted from the beginning of training; a batch may reach into the next epoch."""
        return self.rows.take(indices(position, count, len(self.rows), self.seed))


def indices(position: int, count: int, rows: int, seed: int) -> NDArray[np.int64]:
    """Which rows lie at `position` … `position + count - 1` of the endless shuffled stream of epochs."""
    return np.array([order(rows, seed, place // rows)[place % rows] for place in range(position, position + count)], np.int64)


@lru_cache(maxsize=2)
def order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation of 0 … rows - 1."""
    permutation: NDArray[np.int64] = rng.generator(seed, "order", epoch).permutation(rows)
    return permutation


def batches_for(tokens: Tokens, settings: Settings) -> Batches:
    """The batches that `settings` ask for. UserError if the tokens cannot give them."""
    rows = _rows(tokens.train, tokens.special, settings)
    if not len(rows):
        raise UserError("the training split holds no rows; the corpus needs at least one document of two tokens")
    return Batches(rows, settings.seed, _held_out(tokens, settings))


def in_steps(settings: Settings, tokens: Tokens) -> Settings:
    """The same with a duration in steps: the fewest that reach the epochs or, on average, the targets that are asked for.

    UserError if the schedule does not fit into them.
    """
    if settings.steps is not None:
        return settings
    rows, targets = len(_rows(tokens.train, tokens.special, settings)), len(tokens.train.ids) - (len(tokens.train.starts) - 1)
    epochs = settings.epochs if settings.tokens is None else settings.tokens / max(targets, 1)
    assert epochs is not None, "one of the three is given"
    steps = max(1, math.ceil(round(epochs * rows / settings.batch, 6)))
    try:
        return replace(settings, steps=steps, epochs=None, tokens=None)
    except ValueError as error:
        raise UserError(f"train: {error}") from None


def _rows(split: Split, special: Any, settings: Settings) -> Rows:
    if settings.batches != "documents":
        return Windows(split, settings.length, settings.batches == "packed")
    if "pad" not in special:
        raise UserError("train.batches: documents need a codec with a 'pad' token; for this corpus windows would be right")
    lengths = np.diff(split.starts)
    if len(lengths) and (lengths.max() > settings.length + 1 or lengths.min() < 2):
        raise UserError(
            f"train.length: {settings.length}; documents of {lengths.min()} to {lengths.max()} tokens need a length of "
            f"{max(lengths.max() - 1, 1)} and at least 2 tokens each"
        )
    return Documents(split, special["pad"])


def _held_out(tokens: Tokens, settings: Settings) -> list[Batch]:
    if settings.held_out is None:
        return []
    rows = _rows(tokens.val, tokens.special, settings)
    if not len(rows):
        raise UserError("train.held_out: the validation split is empty; null would be right, or a larger split at tokenize")
    count = min(settings.held_out.rows, len(rows))
    chosen = np.linspace(0, len(rows) - 1, count).round().astype(np.int64)
    return [rows.take(part) for part in np.split(chosen, range(settings.most_rows, count, settings.most_rows))]
