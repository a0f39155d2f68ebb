"""Read and write the content of a puzzle: the official JSON form of an ARC task.

`{"train": [{"input": GRID, "output": GRID}, …], "test": [{"input": GRID}, …]}`, where a grid is a list of rows of colours. A test pair
without `output` is hidden. JSON is parsed and never evaluated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core.errors import DataError
from provenlm.core.records import Record

MEDIA_TYPE = "application/json"
NUM_COLORS = 10
MAX_SIDE = 30

Grid = NDArray[np.uint8]  # (height, width)
PuzzleSplit = Literal["training", "evaluation", "test"]


@dataclass(frozen=True, slots=True)
class GridPair:
    """Hold an input and its output; None if the output is hidden."""

    input: Grid
    output: Grid | None


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Hold a task: pairs that demonstrate its rule, and pairs to solve.

    `id` is unique within a collection. `split` is that of the publisher.
    """

    id: str
    collection: str
    split: str
    train: tuple[GridPair, ...]
    test: tuple[GridPair, ...]

    @property
    def pairs(self) -> tuple[GridPair, ...]:
        """Return the pairs of both kinds, the demonstrations first."""
        return self.train + self.test

    @property
    def has_same_sizes(self) -> bool:
        """Return whether each demonstration has an output of the size of its input."""
        return all(pair.output is not None and pair.output.shape == pair.input.shape for pair in self.train)


def find_grid_fault(value: Any) -> str | None:
    """Return why a JSON value is no grid; None if it is one."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return "structure"
    if not 1 <= len(value) <= MAX_SIDE or not 1 <= len(value[0]) <= MAX_SIDE:
        return "grid_size"
    if any(len(row) != len(value[0]) for row in value):
        return "not_rectangular"
    if not all(type(color) is int and 0 <= color < NUM_COLORS for row in value for color in row):
        return "color"
    return None


def find_fault(task: Any) -> str | None:
    """Return why a JSON value is no task; None if it is one.

    That is `structure`, `no_train_pairs`, `no_test_pairs`, `missing_input`, `missing_output` or the fault of a grid. The output of a
    test pair may be missing.
    """
    if not isinstance(task, dict) or not all(isinstance(task.get(name), list) for name in ("train", "test")):
        return "structure"
    for name in ("train", "test"):
        if not task[name]:
            return f"no_{name}_pairs"
        for pair in task[name]:
            if not isinstance(pair, dict):
                return "structure"
            if "input" not in pair:
                return "missing_input"
            if "output" not in pair and name == "train":
                return "missing_output"
            if fault := find_grid_fault(pair["input"]) or ("output" in pair and find_grid_fault(pair["output"])) or None:
                return fault
    return None


def encode_task(task: Any) -> bytes:
    """Return the canonical JSON of a task: its known keys in a fixed order.

    A value that is no task is encoded as it is, so that the filter can say why.
    """
    if isinstance(task, dict):
        task = {name: [_known_keys(pair) for pair in _as_list(task[name])] for name in ("train", "test") if name in task}
    return json.dumps(task, separators=(",", ":")).encode()


def _known_keys(pair: Any) -> Any:
    return {name: pair[name] for name in ("input", "output") if name in pair} if isinstance(pair, dict) else pair


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def decode_task(content: bytes) -> Any:
    """Parse the JSON of a task. Raises DataError if it is no JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"content must be the JSON of a task, got {len(content)} bytes that are none: {error}") from None


def parse_puzzle(content: bytes, task_id: str = "", collection: str = "", split: str = "") -> Puzzle:
    """Parse the JSON of a task. Raises DataError, naming the fault, if it is none."""
    return build_puzzle(decode_task(content), task_id, collection, split)


def build_puzzle(task: Any, task_id: str, collection: str, split: str) -> Puzzle:
    """Convert a JSON value to a puzzle. Raises DataError if it has a fault."""
    if fault := find_fault(task):
        raise DataError(f"task {collection}/{task_id}: must be rectangular grids of sides 1 to 30 and colours 0 to 9, got {fault}")
    train, test = (tuple(_build_pair(pair) for pair in task[name]) for name in ("train", "test"))
    return Puzzle(task_id, collection, split, train, test)


def _build_pair(pair: Mapping[str, Any]) -> GridPair:
    return GridPair(to_grid(pair["input"]), to_grid(pair["output"]) if "output" in pair else None)


def to_grid(rows: Sequence[Sequence[int]]) -> Grid:
    """Convert rows of colours to an array."""
    return np.array(rows, np.uint8)


def encode_puzzle(puzzle: Puzzle) -> bytes:
    """Return the canonical JSON of a puzzle."""
    return encode_task({name: [_pair_json(pair) for pair in getattr(puzzle, name)] for name in ("train", "test")})


def _pair_json(pair: GridPair) -> dict[str, Any]:
    return {"input": pair.input.tolist(), **({} if pair.output is None else {"output": pair.output.tolist()})}


def hide_solutions(task: Any) -> tuple[Any, list[Any]]:
    """Return a task without its test outputs, and these outputs.

    An output that is hidden already is None.
    """
    if not isinstance(task, dict) or not all(isinstance(pair, dict) for pair in _as_list(task.get("test", []))):
        return task, []
    tests = _as_list(task.get("test", []))
    challenge = {**task, "test": [{key: value for key, value in pair.items() if key != "output"} for pair in tests]}
    return challenge, [pair.get("output") for pair in tests]


def reveal_solutions(task: Any, solutions: Sequence[Any]) -> Any:
    """Return a task with the test outputs that `hide_solutions` separated."""
    if not solutions:
        return task
    tests = [
        pair if solution is None else {**pair, "output": solution} for pair, solution in zip(task["test"], solutions, strict=True)
    ]
    return {**task, "test": tests}


def read_puzzle(record: Record) -> Puzzle:
    """Read the puzzle of a record as its content shows it.

    Separated solutions stay hidden. Raises DataError.
    """
    names = [str(record.metadata.get(name, "")) for name in ("task_id", "collection", "split")]
    return parse_puzzle(record.content, *names)


def full_task(record: Record) -> Any:
    """Return the JSON value of a record with its separated solutions.

    Raises DataError if its content is no JSON.
    """
    return reveal_solutions(decode_task(record.content), record.metadata.get("solutions", ()))
