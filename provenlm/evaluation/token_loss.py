"""Compute the loss of every target token of a split, each counted exactly once.

Shapes: N windows, M targets, B sequences of a batch, T positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.progress import progress_bar
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation.arrays import FloatArray, IntArray
from provenlm.evaluation.probe import EvalContext

IGNORE = -100  # torch's default for a target without loss


@dataclass(frozen=True)
class EvalWindows:
    """Hold windows of documents, all int64, (N,).

    Window n has the inputs `ids[starts[n]:stops[n]]`; targets lie one token later.
    """

    starts: IntArray
    stops: IntArray
    documents: IntArray

    @property
    def lengths(self) -> IntArray:
        """Return the number of targets of each window, (N,)."""
        return self.stops - self.starts


@dataclass(frozen=True)
class TokenLosses:
    """Hold one entry for each target, all (M,).

    `token_index` is the index of the target in the ids of the split, `window_position` the index of its input in its window.
    """

    nats: FloatArray
    correct: NDArray[np.bool_]  # the most probable token was the target
    token_index: IntArray
    window_position: IntArray
    document: IntArray

    def select(self, mask_M: NDArray[np.bool_]) -> "TokenLosses":
        """Return the entries where `mask_M` is true."""
        return TokenLosses(
            self.nats[mask_M], self.correct[mask_M], self.token_index[mask_M], self.window_position[mask_M], self.document[mask_M]
        )

    def sum_by_document(self, values: NDArray[Any], num_documents: int) -> FloatArray:
        """Sum `values` (M,) by document, (num_documents,)."""
        return np.bincount(self.document, weights=values, minlength=num_documents).astype(np.float64)


def make_windows(split: DatasetSplit, max_len: int, documents: IntArray) -> EvalWindows:
    """Cut `documents` into windows of at most `max_len` targets.

    Windows neither overlap nor cross a document. The first token of a document (its `bos`) is never a target; every other token
    is a target exactly once.
    """
    spans = [
        (start, min(start + max_len, int(split.doc_offsets[document + 1]) - 1), int(document))
        for document in documents
        for start in range(int(split.doc_offsets[document]), int(split.doc_offsets[document + 1]) - 1, max_len)
    ]
    table = np.array(spans, dtype=np.int64).reshape(-1, 3)
    return EvalWindows(table[:, 0], table[:, 1], table[:, 2])


def sample_documents(split: DatasetSplit, min_targets: int, seed: int) -> IntArray:
    """Draw documents until they hold at least `min_targets` targets.

    Returns sorted indices, of all documents if they hold fewer; documents are drawn without replacement.
    """
    order = rng.make_rng(seed, "documents").permutation(len(split.record_ids))
    lengths = np.maximum(np.diff(split.doc_offsets) - 1, 0)
    num_documents = int(np.searchsorted(np.cumsum(lengths[order]), min_targets)) + 1
    return np.sort(order[:num_documents]).astype(np.int64)


def equal_length_sequences(context: EvalContext, num_tokens: int) -> torch.Tensor:
    """Return about `num_tokens` document tokens as tokens_BT.

    T is one more than the longest window: its inputs and the last target.
    """
    split = context.val_or_train_split
    windows = make_windows(split, context.max_seq_len, sample_documents(split, num_tokens, context.seed))
    longest = int(windows.lengths.max())
    starts = windows.starts[windows.lengths == longest][: max(1, num_tokens // longest)]
    ids = np.asarray(split.ids[starts[:, None] + np.arange(longest + 1)]).astype(np.int64)
    return torch.from_numpy(ids).to(context.device)


def token_losses(context: EvalContext, split: DatasetSplit, windows: EvalWindows, tokens_per_batch: int, label: str) -> TokenLosses:
    """Compute the loss in nats of every target, in the order of `windows`.

    A forward pass has at most `tokens_per_batch` tokens.
    """
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(windows.lengths)])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], windows.lengths)
    nats, correct = np.zeros(offsets[-1]), np.zeros(offsets[-1], dtype=np.bool_)
    with progress_bar(label, "tokens", int(offsets[-1])) as bar, torch.inference_mode():
        for window_ids in _batches(windows.lengths, tokens_per_batch):
            inputs_BT, targets_BT = make_batch(context, split, windows, window_ids)
            logits_BTV = context.logits(context.model, inputs_BT).float()
            nats_BT = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="none")
            is_target = (targets_BT != IGNORE).flatten()
            slots = np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in window_ids])
            nats[slots] = nats_BT[is_target].double().cpu().numpy()
            correct[slots] = (logits_BTV.argmax(-1) == targets_BT).flatten()[is_target].cpu().numpy()
            bar.update(len(slots))
    token_index = np.repeat(windows.starts, windows.lengths) + position + 1
    return TokenLosses(nats, correct, token_index, position, np.repeat(windows.documents, windows.lengths))


def sequence_losses(context: EvalContext, sequences: Sequence[Sequence[int]], tokens_per_batch: int, label: str) -> TokenLosses:
    """Compute the loss of every token of `sequences` except the first of each.

    `document` of the result is the index of the sequence. ValueError for a sequence that is too short or longer than the model's
    `max_seq_len` + 1.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if not len(lengths) or lengths.min() < 2 or lengths.max() > context.max_seq_len + 1:
        raise ValueError(f"sequences must have 2 to {context.max_seq_len + 1} tokens, got {sorted(set(lengths.tolist()))}")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    record_ids = [str(n) for n in range(len(sequences))]
    split = DatasetSplit(
        np.concatenate([np.asarray(sequence) for sequence in sequences]), starts, record_ids, np.zeros(len(sequences), np.int64)
    )
    return token_losses(
        context, split, make_windows(split, context.max_seq_len, np.arange(len(sequences))), tokens_per_batch, label
    )


def make_batch(
    context: EvalContext, split: DatasetSplit, windows: EvalWindows, window_ids: IntArray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the windows `window_ids` as (inputs_BT, targets_BT).

    They are padded on the right to the longest of them.
    """
    offsets = np.arange(int(windows.lengths[window_ids].max()))
    in_window = offsets < windows.lengths[window_ids][:, None]
    index = np.where(in_window, windows.starts[window_ids][:, None] + offsets, 0)
    inputs = np.where(in_window, split.ids[index], context.tokens.special_tokens.get("pad", 0)).astype(np.int64)
    targets = np.where(in_window, split.ids[np.where(in_window, index + 1, 0)].astype(np.int64), IGNORE)
    return torch.from_numpy(inputs).to(context.device), torch.from_numpy(targets).to(context.device)


def _batches(lengths: IntArray, tokens_per_batch: int) -> Iterator[IntArray]:
    """Group windows of similar length, at least one per batch."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        batch_size = max(1, tokens_per_batch // int(lengths[order[start]]))
        yield order[start : start + batch_size]
        start += batch_size
