"""Encode puzzles as one stream of tokens: colours and a few separators.

A document is `bos`, the token of its task, the pairs and `eos`. A pair is `Input`, or `TestInput` before a test pair, with the rows of the
input, then `Output` with the rows of the output unless it is hidden; `Row` ends each row. The task tokens stand for the tasks that the
tokenizer was trained on. `Mask` is for models that predict a grid at once: it stands in place of a cell to predict.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import DataError
from provenlm.core.records import Record
from provenlm.domains.grids.content.puzzle import (
    NUM_COLORS,
    Grid,
    Puzzle,
    encode_task,
    parse_puzzle,
    read_puzzle,
)
from provenlm.domains.grids.tokenize.packed_store import StoredTask, write_store

TOKENIZER_TYPE = "arc_grids"
PAD, BOS, EOS, MASK, ROW, INPUT, OUTPUT, TEST_INPUT = range(NUM_COLORS, NUM_COLORS + 8)
FIRST_TASK = NUM_COLORS + 8
NAMES = ("PAD", "BOS", "EOS", "Mask", "Row", "Input", "Output", "TestInput")
TASKS_FILE, SOLUTIONS_FILE = "tasks.grids", "solutions.json"

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StreamPair:
    """Hold a pair of a stream.

    A grid is None if it is missing, or a list of rows if they differ in length."""

    is_test: bool
    input: Grid | list[list[int]] | None
    output: Grid | list[list[int]] | None


class GridTokenizer:
    """Map puzzles to tokens and back.

    `task_keys` are COLLECTION/ID of the known tasks, `record_ids` those of their records. `folder` is where the tokenizer was loaded from.
    `stored_tasks` and `solutions` are written by `save`; a loaded tokenizer has neither.
    """

    def __init__(
        self,
        task_keys: Sequence[str],
        record_ids: Sequence[str],
        stored_tasks: Sequence[StoredTask] = (),
        solutions: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.task_keys, self.record_ids, self.folder = tuple(task_keys), tuple(record_ids), folder
        self.vocab_size = FIRST_TASK + len(self.task_keys)
        self.special_tokens: Mapping[str, int] = {"pad": PAD, "bos": BOS, "eos": EOS}
        self._task_numbers = {record_id: number for number, record_id in enumerate(self.record_ids)}
        self._stored_tasks, self._solutions = tuple(stored_tasks), dict(solutions or {})

    @property
    def token_classes(self) -> Mapping[str, NDArray[np.int64]]:
        """Return the ids of each class of tokens.

        They are Color, Mask, Row, Input, Output, TestInput and Task."""
        ids = {"Color": range(NUM_COLORS), **{name: (NUM_COLORS + index,) for index, name in enumerate(NAMES) if index > 2}}
        ids["Task"] = range(FIRST_TASK, self.vocab_size)
        return {name: np.array(members, np.int64) for name, members in ids.items() if len(members)}

    def encode(self, records: Sequence[Record]) -> list[NDArray[np.uint32]]:
        """Encode the puzzle of each record, without special tokens."""
        return [self.encode_puzzle(read_puzzle(record), self._task_numbers.get(record.id)) for record in records]

    def encode_puzzle(self, puzzle: Puzzle, task_number: int | None = None) -> NDArray[np.uint32]:
        """Encode a puzzle after the token of its task, if it is a known one."""
        parts = [np.array([] if task_number is None else [FIRST_TASK + task_number])]
        for marker, group in ((INPUT, puzzle.train), (TEST_INPUT, puzzle.test)):
            for pair in group:
                parts += [np.array([marker]), _encode_grid(pair.input)]
                if pair.output is not None:
                    parts += [np.array([OUTPUT]), _encode_grid(pair.output)]
        return np.concatenate(parts).astype(np.uint32)

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode ids to the JSON of a task.

        Special tokens, task tokens and cells outside a grid are skipped. Tokens of a model may give what is no task.
        """
        pairs = parse_stream(np.asarray(ids, np.int64))
        groups = {"train": [pair for pair in pairs if not pair.is_test], "test": [pair for pair in pairs if pair.is_test]}
        return encode_task({name: [_pair_json(pair) for pair in group] for name, group in groups.items()})

    def describe(self, ids: Sequence[int]) -> str:
        """Return tokens as text: each row of a grid is a line of digits."""
        pieces = []
        for token_id in ids:
            if token_id < NUM_COLORS:
                pieces.append(str(token_id))
            elif token_id == ROW:
                pieces.append("\n")
            elif token_id >= FIRST_TASK:
                pieces.append(f"{self.task_keys[token_id - FIRST_TASK]}\n")
            elif token_id not in self.special_tokens.values():
                pieces.append(f"{NAMES[token_id - NUM_COLORS]}\n")
        return "".join(pieces)

    def count_unknown(self, ids: NDArray[np.uint32]) -> int:
        """Return 0: every cell has a token."""
        return 0

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt after `bos`: the path of a task file (.json), or its JSON.

        Raises DataError for what is no task.
        """
        try:
            content = Path(text.strip()).read_bytes() if text.strip().endswith(".json") else text.encode()
        except OSError as error:
            raise DataError(f"prompt must be a readable file of a task, got {text.strip()!r}: {error.strerror}") from None
        return [BOS, *self.encode_puzzle(parse_puzzle(content, "prompt")).tolist()]

    def save(self, folder: Path) -> None:
        """Write the tokenizer, the packed tasks and the separated solutions to `folder`.

        Solutions are in Kaggle's layout, in a file of their own; training reads none of it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"type": TOKENIZER_TYPE, "task_keys": list(self.task_keys), "record_ids": list(self.record_ids)}
        io.write_json(folder / "metadata.json", metadata)
        write_store(folder / TASKS_FILE, self._stored_tasks)
        io.write_text(folder / SOLUTIONS_FILE, json.dumps(self._solutions, separators=(",", ":")))


def _encode_grid(grid: Grid) -> Ids:
    return np.pad(grid.astype(np.int64), ((0, 0), (0, 1)), constant_values=ROW).ravel()


def parse_stream(ids: Ids) -> list[StreamPair]:
    """Return the pairs of a stream of tokens."""
    markers = np.flatnonzero((ids == INPUT) | (ids == OUTPUT) | (ids == TEST_INPUT))
    pairs: list[StreamPair] = []
    for start, end in pairwise([*markers.tolist(), len(ids)]):
        grid, marker = _parse_grid(ids[start + 1 : end]), ids[start]
        if marker != OUTPUT:
            pairs.append(StreamPair(bool(marker == TEST_INPUT), grid, None))
        elif pairs and pairs[-1].output is None:
            pairs[-1] = StreamPair(pairs[-1].is_test, pairs[-1].input, grid)
        else:
            pairs.append(StreamPair(False, None, grid))
    return pairs


def _parse_grid(ids: Ids) -> Grid | list[list[int]]:
    """Return the grid of a part of a stream; rows that differ in length as a list."""
    ids = ids[(ids < NUM_COLORS) | (ids == ROW)]
    ends = np.flatnonzero(ids == ROW)
    width = int(ends[0]) if len(ends) else 0
    if width and len(ids) == len(ends) * (width + 1) and (np.diff(ends) == width + 1).all():
        return ids.reshape(len(ends), width + 1)[:, :width].astype(np.uint8)
    rows = np.split(ids, ends + 1)
    return [row[row != ROW].tolist() for row in rows if len(row)]


def _pair_json(pair: StreamPair) -> dict[str, Any]:
    grids = {"input": pair.input, "output": pair.output}
    return {name: grid.tolist() if isinstance(grid, np.ndarray) else grid for name, grid in grids.items() if grid is not None}


def train_grid_tokenizer(records: Iterable[Record]) -> GridTokenizer:
    """Give each record a task token.

    Raises DataError if two reported tasks have one id, because solutions are named by it.
    """
    keys, record_ids, stored_tasks = list[str](), list[str](), list[StoredTask]()
    solutions: dict[str, Any] = {}
    for record in records:
        puzzle = read_puzzle(record)
        is_reported = bool(record.metadata.get("reported"))
        keys.append(f"{puzzle.collection}/{puzzle.id}")
        record_ids.append(record.id)
        stored_tasks.append(StoredTask(puzzle, is_reported, tuple(record.metadata.get("duplicates", ()))))
        if is_reported:
            if puzzle.id in solutions:
                raise DataError(
                    f"task {keys[-1]}: id must be unique among the reported tasks, got it twice; report on one collection"
                )
            solutions[puzzle.id] = list(record.metadata.get("solutions", ()))
    return GridTokenizer(keys, record_ids, stored_tasks, solutions)


def load_grid_tokenizer(folder: Path) -> GridTokenizer:
    """Load a saved tokenizer.

    Raises DataError if its file is missing, damaged or of another type."""
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if metadata["type"] != TOKENIZER_TYPE:
            raise ValueError(f"type must be {TOKENIZER_TYPE!r}, got {metadata['type']!r}")
        return GridTokenizer(metadata["task_keys"], metadata["record_ids"], folder=folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.as_posix()}: cannot load a grid tokenizer: {error}; run tokenize again") from None
