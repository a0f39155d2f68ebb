"""Cut puzzles into pairs of grids whose cells have coordinates.

A sequence is the cells of an input, followed by the cells of its output to predict. Cells are known by their coordinates, not by their order:
a symmetry changes the coordinates alone. Shapes: B sequences, T cells, 3 coordinates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.grids.content.puzzle import Grid, GridPair, Puzzle
from provenlm.domains.grids.tokenize.grid_tokenizer import FIRST_TASK, MASK, PAD, StreamPair, parse_stream

IGNORE = -100  # a target without loss, as in models/common/objective.py, which the stage tokenize does not need
X, Y, PLANE = range(3)
INPUT_PLANE, OUTPUT_PLANE = 0, 1


@dataclass(frozen=True, slots=True)
class GridBatch:
    """Hold pairs of grids for models that predict an output at once.

    `inputs_BT` (int64) is the colour of an input cell, MASK at a cell of the output, or PAD. `targets_BT` (int64) is the colour of the output
    at the cells to predict, else IGNORE. `coords_BT3` (int64) is x, y and plane of each cell: plane 0 is the input, plane 1 the output.
    `is_query_BT` (bool) marks the cells to predict. In a sequence that is predicted in place they are those of the input. `tasks_B` (int64)
    numbers the tasks, `symmetries_B` (int64) the symmetry under which the pair is shown.
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    coords_BT3: Tensor
    is_query_BT: Tensor
    tasks_B: Tensor
    symmetries_B: Tensor

    @property
    def num_sequences(self) -> int:
        """Return the number of sequences."""
        return self.inputs_BT.shape[0]

    @property
    def seq_len(self) -> int:
        """Return the number of cells of a sequence, padding included."""
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self) -> int:
        """Return the number of targets that carry loss."""
        return int((self.targets_BT != IGNORE).sum())

    @property
    def is_in_place(self) -> Tensor:
        """Return which sequences are predicted at the cells of the input, bool (B,)."""
        return (self.is_query_BT & (self.inputs_BT != MASK)).any(1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> "GridBatch":
        """Return the batch with `fn` applied to each of its tensors."""
        return replace(
            self,
            inputs_BT=fn(self.inputs_BT),
            targets_BT=fn(self.targets_BT),
            coords_BT3=fn(self.coords_BT3),
            is_query_BT=fn(self.is_query_BT),
            tasks_B=fn(self.tasks_B),
            symmetries_B=fn(self.symmetries_B),
        )

    def select(self, sequences: slice) -> "GridBatch":
        """Return some of the sequences."""
        return self.map(lambda tensor: tensor[sequences])


@dataclass(frozen=True, slots=True)
class CellSequence:
    """Hold the cells of one pair: tokens, targets, coordinates, and what to predict."""

    task: int
    symmetry: int
    inputs_T: NDArray[np.int16]
    targets_T: NDArray[np.int16]
    coords_T3: NDArray[np.int16]
    is_query_T: NDArray[np.bool_]

    @classmethod
    def create(
        cls, task: int, grid: Grid, output: Grid | None, output_size: tuple[int, int], in_place: bool, symmetry: int = 0
    ) -> "CellSequence":
        """Lay out an input and the cells of its output.

        Without an output the cells have no target.

        `in_place` takes effect only if the output has the size of the input.
        """
        targets = np.full(output_size[0] * output_size[1], IGNORE, np.int16) if output is None else output.ravel().astype(np.int16)
        inputs, coords = grid.ravel().astype(np.int16), _coordinates(grid.shape[0], grid.shape[1], INPUT_PLANE)
        if in_place and grid.shape == output_size:
            return cls(task, symmetry, inputs, targets, coords, np.ones(len(inputs), np.bool_))
        return cls(
            task,
            symmetry,
            np.concatenate([inputs, np.full(len(targets), MASK, np.int16)]),
            np.concatenate([np.full(len(inputs), IGNORE, np.int16), targets]),
            np.concatenate([coords, _coordinates(output_size[0], output_size[1], OUTPUT_PLANE)]),
            np.arange(len(inputs) + len(targets)) >= len(inputs),
        )

    def __len__(self) -> int:
        return len(self.inputs_T)


def _coordinates(height: int, width: int, plane: int) -> NDArray[np.int16]:
    y, x = np.indices((height, width), np.int16)
    return np.stack([x.ravel(), y.ravel(), np.full(height * width, plane, np.int16)], 1)


def make_batch(sequences: Sequence[CellSequence]) -> GridBatch:
    """Return sequences as a batch, padded to the longest.

    Padding has the coordinates 0."""
    seq_len = max(map(len, sequences))

    def pad(arrays: Sequence[NDArray[Any]], value: int, dtype: type) -> Tensor:
        padded = np.full((len(arrays), seq_len, *arrays[0].shape[1:]), value, dtype)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(padded)

    return GridBatch(
        pad([sequence.inputs_T for sequence in sequences], PAD, np.int64),
        pad([sequence.targets_T for sequence in sequences], IGNORE, np.int64),
        pad([sequence.coords_T3 for sequence in sequences], 0, np.int64),
        pad([sequence.is_query_T for sequence in sequences], 0, np.bool_),
        torch.tensor([sequence.task for sequence in sequences]),
        torch.tensor([sequence.symmetry for sequence in sequences]),
    )


@dataclass(frozen=True)
class GridSequences:
    """Give each visible pair of a split a sequence, in the order of the documents."""

    items: Sequence[CellSequence]

    def __len__(self) -> int:
        return len(self.items)

    def get_batch(self, indices: NDArray[np.int64]) -> GridBatch:
        """Return the pairs at `indices`, padded to the longest of them."""
        return make_batch([self.items[index] for index in indices.tolist()])


def read_puzzles(split: DatasetSplit, dataset: TokenDataset) -> dict[int, Puzzle]:
    """Return the puzzles of a split by the number of their task.

    The id of a puzzle is that of its record; hidden outputs are None.
    """
    num_special = [name in dataset.special_tokens for name in ("bos", "eos")]
    puzzles: dict[int, Puzzle] = {}
    for index, record_id in enumerate(split.record_ids):
        ids = np.asarray(split.ids[split.doc_offsets[index] + num_special[0] : split.doc_offsets[index + 1]]).astype(np.int64)
        pairs = parse_stream(ids)
        train, test = (tuple(map(_to_pair, (pair for pair in pairs if pair.is_test == is_test))) for is_test in (False, True))
        puzzles[int(ids[0]) - FIRST_TASK] = Puzzle(record_id, "", "", train, test)
    return puzzles


def _to_pair(pair: StreamPair) -> GridPair:
    if not isinstance(pair.input, np.ndarray) or isinstance(pair.output, list):
        raise ConfigError("the tokens of the corpus must be rectangular grids, got others; run tokenize again")
    return GridPair(pair.input, pair.output)


def grid_sequences(split: DatasetSplit, dataset: TokenDataset, seq_len: int, in_place: bool) -> GridSequences:
    """Cut a split into pairs.

    The outputs of a task are predicted in place if each of its demonstrations keeps the size. Raises ConfigError if a pair has more than
    `seq_len` cells.
    """
    items = [
        CellSequence.create(task, pair.input, pair.output, pair.output.shape, in_place and puzzle.has_same_sizes)
        for task, puzzle in read_puzzles(split, dataset).items()
        for pair in puzzle.pairs
        if pair.output is not None
    ]
    longest = max(map(len, items), default=0)
    if longest > seq_len:
        raise ConfigError(f"train.seq_len must be >= {longest}, the cells of the largest pair, got {seq_len}")
    return GridSequences(items)


def query_sequences(puzzle: Puzzle, task: int, output_sizes: Sequence[tuple[int, int]], in_place: bool) -> list[CellSequence]:
    """Lay out the test inputs of a puzzle with cells to predict, of the given sizes."""
    return [
        CellSequence.create(task, pair.input, None, size, in_place and puzzle.has_same_sizes)
        for pair, size in zip(puzzle.test, output_sizes, strict=True)
    ]
