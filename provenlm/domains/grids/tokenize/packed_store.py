"""Store puzzles in one packed file and open it with full validation.

Layout: u64 length of the header; the header as JSON, padded with spaces; int32 (pairs, 7); int32 (tasks + 1,), the first pair of each task;
uint8 cells of all grids by rows; SHA-256 of all bytes before it. All numbers are little-endian. The columns of a pair are COLUMNS; the
output of a hidden pair has the offset -1 and the size 0 × 0. Grids are views of the file's bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provenlm.core import io
from provenlm.core.errors import DataError
from provenlm.domains.grids.content.puzzle import MAX_SIDE, NUM_COLORS, Grid, GridPair, Puzzle

FORMAT, VERSION = "arc-tasks", 1
COLUMNS = ("is_test", "input_offset", "input_height", "input_width", "output_offset", "output_height", "output_width")
IS_TEST, INPUT, OUTPUT = 0, 1, 4  # first column of each group
HIDDEN = -1
DIGEST_BYTES, LENGTH_BYTES = 32, 8
HEADER_LISTS = ("ids", "collections", "splits", "reported", "duplicates")  # one entry for each task

PairTable = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StoredTask:
    """Hold a puzzle to store, and what is known of it.

    is_reported: whether results are reported on it. duplicates: the other tasks that share a pair with it.
    """

    puzzle: Puzzle
    is_reported: bool = False
    duplicates: tuple[str, ...] = ()


class PackedStore:
    """Give the puzzles of a packed file; grids are read-only views of it.

    `pairs` is int32 (pairs, 7), `offsets` int32 (tasks + 1,), `cells` uint8 (cells,); they are views of `data`, in which the cells begin
    at `cells_start`.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        pairs: PairTable,
        offsets: NDArray[np.int32],
        cells: NDArray[np.uint8],
        data: bytes,
        cells_start: int,
    ) -> None:
        self.ids: Sequence[str] = header["ids"]
        self.collections: Sequence[str] = header["collections"]
        self.splits: Sequence[str] = header["splits"]
        self.is_reported: Sequence[bool] = header["reported"]
        self.duplicates: Sequence[Sequence[str]] = header["duplicates"]
        self.pairs, self.offsets, self.cells = pairs, offsets, cells
        self._data, self._cells_start = data, cells_start

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Puzzle:
        """Return the puzzle at an index."""
        first, end = int(self.offsets[index]), int(self.offsets[index + 1])
        rows = self.pairs[first:end].tolist()
        views = [GridPair(self._view(row, INPUT), None if row[OUTPUT] == HIDDEN else self._view(row, OUTPUT)) for row in rows]
        num_train = len(rows) - sum(row[IS_TEST] for row in rows)
        return Puzzle(
            self.ids[index], self.collections[index], self.splits[index], tuple(views[:num_train]), tuple(views[num_train:])
        )

    def __iter__(self) -> Iterator[Puzzle]:
        return (self[index] for index in range(len(self)))

    def _view(self, row: Sequence[int], column: int) -> Grid:
        start, height, width = row[column : column + 3]
        return self.cells[start : start + height * width].reshape(height, width)

    def grids(self) -> list[list[tuple[Grid, Grid | None]]]:
        """Return a view of every grid: (input, output) of each pair of each task.

        This is the fastest way to reach all of them. The output is None if it is hidden.
        """
        data, origin, array, dtype = self._data, self._cells_start, np.ndarray, self.cells.dtype
        views = [
            (
                array((height, width), dtype, data, origin + start),
                None if output_start < 0 else array((output_height, output_width), dtype, data, origin + output_start),
            )
            for _, start, height, width, output_start, output_height, output_width in self.pairs.tolist()
        ]
        bounds = self.offsets.tolist()
        return [views[first:end] for first, end in pairwise(bounds)]


def pack_store(tasks: Sequence[StoredTask]) -> bytes:
    """Return the packed file of tasks. Raises DataError if two have one id in one collection."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "num_tasks": len(tasks),
        "num_pairs": sum(len(task.puzzle.pairs) for task in tasks),
        "ids": [task.puzzle.id for task in tasks],
        "collections": [task.puzzle.collection for task in tasks],
        "splits": [task.puzzle.split for task in tasks],
        "reported": [task.is_reported for task in tasks],
        "duplicates": [list(task.duplicates) for task in tasks],
    }
    rows: list[tuple[int, ...]] = []
    cells: list[Grid] = []
    num_cells = 0

    def place(grid: Grid | None) -> tuple[int, int, int]:
        nonlocal num_cells
        if grid is None:
            return HIDDEN, 0, 0
        cells.append(grid)
        num_cells += grid.size
        height, width = grid.shape
        return num_cells - grid.size, height, width

    for task in tasks:
        for is_test, group in enumerate((task.puzzle.train, task.puzzle.test)):
            rows += [(is_test, *place(pair.input), *place(pair.output)) for pair in group]
    pairs = np.array(rows, "<i4").reshape(-1, len(COLUMNS))
    offsets = np.concatenate([[0], np.cumsum([len(task.puzzle.pairs) for task in tasks], dtype=np.int64)]).astype("<i4")
    body = np.concatenate([np.zeros(0, np.uint8), *(grid.ravel() for grid in cells)])
    _validate("packed tasks", header, pairs, offsets, body)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % LENGTH_BYTES)
    content = len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded + pairs.tobytes() + offsets.tobytes() + body.tobytes()
    return content + hashlib.sha256(content).digest()


def write_store(path: Path, tasks: Sequence[StoredTask]) -> None:
    """Write the packed file of tasks atomically. Raises DataError as `pack_store` does."""
    io.write_bytes(path, pack_store(tasks))


def open_store(path: Path) -> PackedStore:
    """Open a packed file: verify its checksum and validate all of it.

    Raises DataError, naming the file and what is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path.as_posix()}: must be a readable file of packed tasks: {error.strerror}; run tokenize again"
        ) from None
    return parse_store(data, path.as_posix())


def parse_store(data: bytes, name: str) -> PackedStore:
    """Open the content of a packed file as `open_store` does; `name` is for errors."""
    if len(data) < LENGTH_BYTES + DIGEST_BYTES:
        raise DataError(f"{name}: must have at least {LENGTH_BYTES + DIGEST_BYTES} bytes, got {len(data)}; run tokenize again")
    view = memoryview(data)
    digest, expected = hashlib.sha256(view[:-DIGEST_BYTES]).digest(), data[-DIGEST_BYTES:]
    if digest != expected:
        raise DataError(
            f"{name}: damaged: sha256 of header and body must be {expected.hex()[:16]}… as the file says, got {digest.hex()[:16]}…; "
            "run tokenize again"
        )
    header_end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    if header_end > len(data) - DIGEST_BYTES:
        raise DataError(f"{name}: length of the header must be within the file, got {header_end - LENGTH_BYTES}")
    header = _parse_header(data[LENGTH_BYTES:header_end], name)
    num_pairs, num_tasks = header["num_pairs"], header["num_tasks"]
    offsets_start = header_end + 4 * len(COLUMNS) * num_pairs
    cells_start = offsets_start + 4 * (num_tasks + 1)
    if cells_start > len(data) - DIGEST_BYTES:
        raise DataError(f"{name}: must hold {num_pairs} pairs of {num_tasks} tasks, got {len(data)} bytes, which are too few")
    pairs = np.frombuffer(data, "<i4", num_pairs * len(COLUMNS), header_end).reshape(num_pairs, len(COLUMNS))
    offsets = np.frombuffer(data, "<i4", num_tasks + 1, offsets_start)
    cells = np.frombuffer(data, np.uint8, len(data) - DIGEST_BYTES - cells_start, cells_start)
    _validate(name, header, pairs, offsets, cells)
    return PackedStore(header, pairs, offsets, cells, data, cells_start)


def _parse_header(encoded: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: header must be JSON: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{name}: header must name the format {FORMAT!r}")
    if header.get("version") != VERSION:
        raise DataError(f"{name}: version must be {VERSION}, got {header.get('version')!r}; run tokenize again")
    for key in ("num_tasks", "num_pairs"):
        if type(header.get(key)) is not int or header[key] < 0:
            raise DataError(f"{name}: header.{key} must be an integer >= 0, got {header.get(key)!r}")
    for key in HEADER_LISTS:
        if not isinstance(header.get(key), list) or len(header[key]) != header["num_tasks"]:
            raise DataError(f"{name}: header.{key} must be a list of {header['num_tasks']} entries, one for each task")
    return header


def _validate(name: str, header: Mapping[str, Any], pairs: PairTable, offsets: NDArray[np.int32], cells: NDArray[np.uint8]) -> None:
    """Validate every number of a store. Raises DataError for the first fault.

    The conditions on all pairs are tested together; only after a failure is the pair searched.
    """
    num_tasks, num_pairs = len(header["ids"]), len(pairs)
    sizes = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != num_pairs or (num_tasks and sizes.min() < 2):
        raise DataError(f"{name}: each task must have at least 2 of the {num_pairs} pairs, in order")
    keys = list(zip(header["collections"], header["ids"], strict=True))
    if len(set(keys)) != num_tasks:
        repeated = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise DataError(f"{name}: ids must be unique in a collection, got {repeated[1]!r} twice in {repeated[0]!r}")
    columns = np.ascontiguousarray(pairs.T)
    is_test, input_offset, _, _, output_offset, output_height, output_width = columns
    is_hidden = output_offset == HIDDEN
    visible_sides = columns[5:7] + is_hidden  # a hidden output is 0 × 0
    sides = (columns[2:4], visible_sides)
    is_valid = (
        (is_test | 1) == 1,
        *((side >= 1) & (side <= MAX_SIDE) for group in sides for side in group),
        ~is_hidden | ((is_test == 1) & (output_height == 0) & (output_width == 0)),
    )
    labels = (
        "is_test must be 0 or 1",
        *("sides must be 1 to 30",) * 4,
        "only outputs of test pairs may be hidden, with size 0 × 0",
    )
    for label, mask in zip(labels, is_valid, strict=True):
        if not mask.all():
            raise DataError(
                f"{name}: {label}, got pair {int(np.flatnonzero(~mask)[0])} {pairs[int(np.flatnonzero(~mask)[0])].tolist()}"
            )
    num_input, num_output = columns[2] * columns[3], output_height * output_width
    ends = np.cumsum(num_input + num_output)
    starts = ends - num_input - num_output
    in_order = (input_offset == starts) & (is_hidden | (output_offset == starts + num_input))
    if not in_order.all():
        raise DataError(f"{name}: offsets of grids must be contiguous, got pair {int(np.flatnonzero(~in_order)[0])}")
    if len(cells) != (ends[-1] if num_pairs else 0):
        raise DataError(f"{name}: must hold {ends[-1] if num_pairs else 0} cells, got {len(cells)}")
    if num_pairs:
        firsts, lasts = is_test[offsets[:-1]], is_test[offsets[1:] - 1]
        is_sorted = np.diff(is_test) >= 0
        is_sorted[offsets[1:-1] - 1] = True  # a new task begins with demonstrations again
        if firsts.any() or not lasts.all() or not is_sorted.all():
            raise DataError(f"{name}: each task must have a demonstration pair, then a test pair, in this order")
    if len(cells) and cells.max() >= NUM_COLORS:
        raise DataError(f"{name}: colours must be 0 to 9, got {int(cells.max())} in cell {int(cells.argmax())}")
