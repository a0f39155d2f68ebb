"""A split of tokens and a net in, the loss of every target out, each target counted exactly once.

Shapes: N windows, M targets, B rows of a batch, T positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.progress import progress
from provenlm.data.token_dataset import Split
from provenlm.evaluation.probe import Subject

IGNORE = -100  # torch's own word for a target that carries no loss

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """Stretches of documents: row n reads `ids[starts[n]:stops[n]]` and is asked for the same moved on by one. All int64, (N,)."""

    starts: Ints
    stops: Ints
    documents: Ints

    @property
    def lengths(self) -> Ints:
        return self.stops - self.starts


@dataclass(frozen=True)
class Losses:
    """One entry a target, all (M,). `index` is the target's place in the split's ids, `place` its place in its window."""

    nats: Floats
    right: NDArray[np.bool_]  # the most probable token was the target
    index: Ints
    place: Ints
    document: Ints

    def only(self, chosen_M: NDArray[np.bool_]) -> "Losses":
        """The chosen targets alone."""
        return Losses(
            self.nats[chosen_M], self.right[chosen_M], self.index[chosen_M], self.place[chosen_M], self.document[chosen_M]
        )

    def by_document(self, values: NDArray[Any], documents: int) -> Floats:
        """Sums of `values_M` for each of `documents`."""
        return np.bincount(self.document, weights=values, minlength=documents).astype(np.float64)


def windows(split: Split, length: int, documents: Ints) -> Windows:
    """Cut each of `documents` into windows of at most `length` targets that do not overlap and never cross a document.

    The first token of a document (its `bos`) is read and never asked for; every other token is asked for exactly once.
    """
    rows = [
        (start, min(start + length, int(split.starts[d + 1]) - 1), int(d))
        for d in documents
        for start in range(int(split.starts[d]), int(split.starts[d + 1]) - 1, length)
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Windows(table[:, 0], table[:, 1], table[:, 2])


def some_documents(split: Split, targets: int, seed: int) -> Ints:
    """Whole documents, drawn without replacement until they hold at least `targets` targets or there are no more; sorted."""
    order = rng.generator(seed, "documents").permutation(len(split.record_ids))
    lengths = np.maximum(np.diff(split.starts) - 1, 0)
    enough = int(np.searchsorted(np.cumsum(lengths[order]), targets)) + 1
    return np.sort(order[:enough]).astype(np.int64)


def stretches(subject: Subject, tokens: int) -> torch.Tensor:
    """About `tokens` tokens of documents, as rows_BT of equal length: a window of inputs and the last target behind it."""
    split = subject.unseen
    rows = windows(split, subject.length, some_documents(split, tokens, subject.seed))
    longest = int(rows.lengths.max())
    starts = rows.starts[rows.lengths == longest][: max(1, tokens // longest)]
    ids = np.asarray(split.ids[starts[:, None] + np.arange(longest + 1)]).astype(np.int64)
    return torch.from_numpy(ids).to(subject.device)


def measure(subject: Subject, split: Split, rows: Windows, batch_tokens: int, label: str) -> Losses:
    """The loss in nats of every target of `rows`, in the order of `rows`; at most `batch_tokens` tokens go forward at once."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows.lengths)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], rows.lengths)
    nats, right = np.zeros(offsets[-1]), np.zeros(offsets[-1], dtype=np.bool_)
    with progress(label, "tokens", int(offsets[-1])) as bar, torch.inference_mode():
        for chosen in _batches(rows.lengths, batch_tokens):
            inputs_BT, targets_BT = batch(subject, split, rows, chosen)
            logits_BTV = subject.logits(subject.model, inputs_BT).float()
            nats_BT = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="none")
            asked = (targets_BT != IGNORE).flatten()
            where = np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in chosen])
            nats[where] = nats_BT[asked].double().cpu().numpy()
            right[where] = (logits_BTV.argmax(-1) == targets_BT).flatten()[asked].cpu().numpy()
            bar.advance(len(where))
    index = np.repeat(rows.starts, rows.lengths) + place + 1
    return Losses(nats, right, index, place, np.repeat(rows.documents, rows.lengths))


def of_rows(subject: Subject, rows: Sequence[Sequence[int]], batch_tokens: int, label: str) -> Losses:
    """The loss of each token of `rows` but the first of each; a row is a document of the result. ValueError for one beyond `length`."""
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    if not len(sizes) or sizes.min() < 2 or sizes.max() > subject.length + 1:
        raise ValueError(f"rows must hold 2 to {subject.length + 1} tokens")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    names = [str(n) for n in range(len(rows))]
    split = Split(np.concatenate([np.asarray(row) for row in rows]), starts, names, np.zeros(len(rows), np.int64))
    return measure(subject, split, windows(split, subject.length, np.arange(len(rows))), batch_tokens, label)


def batch(subject: Subject, split: Split, rows: Windows, chosen: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows `chosen` as inputs_BT and targets_BT, padded on the right to the longest of them."""
    span = np.arange(int(rows.lengths[chosen].max()))
    inside = span < rows.lengths[chosen][:, None]
    index = np.where(inside, rows.starts[chosen][:, None] + span, 0)
    inputs = np.where(inside, split.ids[index], subject.tokens.special.get("pad", 0)).astype(np.int64)
    targets = np.where(inside, split.ids[np.where(inside, index + 1, 0)].astype(np.int64), IGNORE)
    return torch.from_numpy(inputs).to(subject.device), torch.from_numpy(targets).to(subject.device)


def _batches(lengths: Ints, batch_tokens: int) -> Iterator[Ints]:
    """Rows of similar length together, so that little is padded; at least one row a batch."""
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        rows = max(1, batch_tokens // int(lengths[order[first]]))
        yield order[first : first + rows]
        first += rows
