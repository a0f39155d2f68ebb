"""Cut pieces into sequences of whole bars with the attributes of each bar.

A position belongs to the bar whose bar token was read last: what follows from a bar number is known before the next token is. The
attributes are those of MuseMorphose (Wu and Yang 2021, arXiv 2105.04090), counted from the tokens of a bar.

Shapes: B sequences, T positions, N bars of a sequence, A attributes, G bars of a split.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import DatasetSplit, TokenDataset

IGNORE = -100  # a target without loss, as in models/common/objective.py, which the stage tokenize does not need
BAR, POSITION, PITCH = "Bar", "Position", "Pitch"  # classes of tokens
DENSITY_EDGES = (1, 2, 3, 4, 6, 8, 12)  # positions of a bar at which a note begins
POLYPHONY_EDGES = (0.5, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75)  # notes that begin together, on average over such positions
ATTRIBUTES = ("density", "polyphony")
NUM_ATTRIBUTE_CLASSES = (len(DENSITY_EDGES) + 1, len(POLYPHONY_EDGES) + 1)

Classes = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class BarBatch:
    """Hold sequences of bars for next-token training with one latent a bar.

    `bars_BT` numbers the bar of each input from 0 on; `attributes_BNA` holds the class of each attribute of each bar, 0 beyond the last one.
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    bars_BT: Tensor
    attributes_BNA: Tensor

    @property
    def num_sequences(self) -> int:
        """Return the number of sequences."""
        return self.inputs_BT.shape[0]

    @property
    def seq_len(self) -> int:
        """Return the number of positions per sequence, padding included."""
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self) -> int:
        """Return the number of targets that carry loss."""
        return int((self.targets_BT != IGNORE).sum())

    def map(self, fn: Callable[[Tensor], Tensor]) -> "BarBatch":
        """Return the batch with `fn` applied to each of its tensors."""
        return replace(
            self,
            inputs_BT=fn(self.inputs_BT),
            targets_BT=fn(self.targets_BT),
            bars_BT=fn(self.bars_BT),
            attributes_BNA=fn(self.attributes_BNA),
        )

    def select(self, sequences: slice) -> "BarBatch":
        """Return some of the sequences."""
        return self.map(lambda tensor: tensor[sequences])


class BarTable(NamedTuple):
    """Hold the bars of a stream of tokens.

    `bar_count` is the number of bar tokens up to each token; `values_GA` holds the attributes of each bar, that of the tokens before the
    first bar token included.
    """

    bar_count: NDArray[np.int64]
    values_GA: NDArray[np.float64]


def measure_bars(ids: NDArray[Any], classes: Classes) -> BarTable:
    """Count onsets, and notes per onset, of every bar."""
    is_bar, is_note = np.isin(ids, classes[BAR]), np.isin(ids, classes[PITCH])
    bar_count = np.cumsum(is_bar, dtype=np.int64)
    num_bars = int(bar_count[-1]) + 1 if len(ids) else 1
    starts_onset = is_bar | np.isin(ids, classes.get(POSITION, np.zeros(0, np.int64)))
    onset_number = np.cumsum(starts_onset)[is_note]
    bar_of_note = bar_count[is_note]
    is_first = np.diff(onset_number, prepend=-1) != 0
    num_onsets = np.bincount(bar_of_note[is_first], minlength=num_bars).astype(np.float64)
    num_notes = np.bincount(bar_of_note, minlength=num_bars)
    return BarTable(bar_count, np.stack([num_onsets, num_notes / np.maximum(num_onsets, 1)], 1))


def classify_attributes(values_GA: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class of every attribute of every bar.

    Class 0 is a bar without notes.
    """
    columns = [np.digitize(values_GA[:, index], edges) for index, edges in enumerate((DENSITY_EDGES, POLYPHONY_EDGES))]
    return np.stack(columns, 1).astype(np.int64)


@dataclass(frozen=True)
class BarSequences:
    """Give windows of whole bars; only a bar longer than a sequence is cut.

    Window n has the inputs `ids[starts[n]:stops[n]]`, targets lie one token later; its first bar is `first_bars[n]` of the table.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    first_bars: NDArray[np.int64]
    bar_count: NDArray[np.int64]
    attribute_classes_GA: NDArray[np.int64]
    pad_id: int

    def __len__(self) -> int:
        return len(self.starts)

    def get_batch(self, indices: NDArray[np.int64]) -> BarBatch:
        """Return windows, padded to the longest of them.

        Padding carries no loss and stays in the last bar.
        """
        lengths = self.stops[indices] - self.starts[indices]
        offsets_T = np.arange(lengths.max())
        in_window_BT = offsets_T < lengths[:, None]
        index_BT = self.starts[indices][:, None] + np.minimum(offsets_T, lengths[:, None] - 1)
        inputs_BT = np.where(in_window_BT, self.ids[index_BT], self.pad_id).astype(np.int64)
        targets_BT = np.where(in_window_BT, self.ids[index_BT + 1].astype(np.int64), IGNORE)
        bars_BT = np.maximum(self.bar_count[index_BT] - self.first_bars[indices][:, None], 0)
        bars_N = np.arange(bars_BT.max() + 1)
        table_index_BN = np.minimum(self.first_bars[indices][:, None] + bars_N, len(self.attribute_classes_GA) - 1)
        is_bar_BN = bars_N <= bars_BT[:, -1:]
        attributes_BNA = np.where(is_bar_BN[..., None], self.attribute_classes_GA[table_index_BN], 0)
        return BarBatch(*map(torch.from_numpy, (inputs_BT, targets_BT, bars_BT, attributes_BNA)))


def bar_sequences(split: DatasetSplit, dataset: TokenDataset, seq_len: int) -> BarSequences:
    """Cut a split into windows of at most `seq_len` inputs.

    Raises ConfigError if the tokens have no padding, or not one bar token for all bars.
    """
    num_bar_ids = len(dataset.token_classes.get(BAR, ()))
    if num_bar_ids != 1:
        raise ConfigError(
            f"train.batches.layout must be tokens for a tokenizer with {num_bar_ids} bar tokens, got bars; the scheme REMI has one"
        )
    if "pad" not in dataset.special_tokens:
        raise ConfigError("train.batches.layout must be tokens for a tokenizer without padding, got bars")
    ids = np.asarray(split.ids)
    table = measure_bars(ids, dataset.token_classes)
    is_bar = np.isin(ids, dataset.token_classes[BAR])
    windows = [
        window
        for first, end in zip(split.doc_offsets[:-1], split.doc_offsets[1:], strict=True)
        for window in cut_document(int(first), int(end), np.flatnonzero(is_bar[first:end]) + int(first), seq_len)
    ]
    spans = np.array(windows, np.int64).reshape(-1, 2)
    begins_before_bar = np.isin(spans[:, 0], split.doc_offsets[:-1]) & ~is_bar[spans[:, 0]]  # at `bos`
    first_bars = table.bar_count[spans[:, 0]] + begins_before_bar
    classes_GA = classify_attributes(table.values_GA)
    return BarSequences(ids, spans[:, 0], spans[:, 1], first_bars, table.bar_count, classes_GA, dataset.special_tokens["pad"])


def cut_document(first: int, end: int, bar_tokens: NDArray[np.int64], seq_len: int) -> list[tuple[int, int]]:
    """Return windows (start, stop) of the document `first` … `end` - 1.

    They hold every target once.

    Each but the first starts at a bar token, unless a bar is longer than `seq_len`, and holds as many bars as fit.
    """
    windows, start, last = [], first, end - 1
    while start < last:
        stop = min(start + seq_len, last)
        if stop < last:
            earlier = bar_tokens[np.searchsorted(bar_tokens, start, side="right") : np.searchsorted(bar_tokens, stop, side="right")]
            earlier = earlier[earlier > first + 1]  # bos and the first bar token stay together
            stop = int(earlier[-1]) if len(earlier) else stop
        windows.append((start, stop))
        start = stop
    return windows
