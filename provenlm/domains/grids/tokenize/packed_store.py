"""Store puzzles in one packed file and open it with full validation.

Layout: u64 length of the header; the header as JSON, padded with spaces; int32 (pairs, 7); int32 (tasks + 1,), the first pair of each task;
uint8 cells of all grids by rows, the grids ordered by height, then width, then position; SHA-256 of all bytes before it. All numbers are
little-endian. The columns of a pair are COLUMNS; the output of a hidden pair has the offset -1 and the size 0 × 0. Grids are views of the
file's bytes; those of one shape lie together, so that one operation gives the views of all of them.
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
SHAPE_BASE = MAX_SIDE + 1  # a shape is numbered height × 31 + width
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

    `pairs` is int32 (pairs, 7), `offsets` int32 (tasks + 1,), `cells` uint8 (cells,); they are views of the file.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        pairs: PairTable,
        offsets: NDArray[np.int32],
        cells: NDArray[np.uint8],
    ) -> None:
        self.ids: Sequence[str] = header["ids"]
        self.collections: Sequence[str] = header["collections"]
        self.splits: Sequence[str] = header["splits"]
        self.is_reported: Sequence[bool] = header["reported"]
        self.duplicates: Sequence[Sequence[str]] = header["duplicates"]
        self.pairs, self.offsets, self.cells = pairs, offsets, cells

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
        is_visible = self._is_visible()
        keys = _shape_keys(self.pairs)[is_visible]
        order = np.argsort(keys, kind="stable")
        ordered_keys = keys[order]
        firsts = np.flatnonzero(np.diff(ordered_keys, prepend=-1))
        views: list[Grid | None] = []
        position = 0
        for key, count in zip(ordered_keys[firsts].tolist(), np.diff(firsts, append=len(keys)).tolist(), strict=True):
            height, width = divmod(key, SHAPE_BASE)
            end = position + count * height * width
            views.extend(self.cells[position:end].reshape(count, height, width))  # iterating over an array gives views
            position = end
        views.append(None)
        number_of_grid = np.full(len(is_visible), -1)
        number_of_grid[np.flatnonzero(is_visible)[order]] = np.arange(len(keys))
        grids = [views[number] for number in number_of_grid.tolist()]
        pairs = list(zip(grids[::2], grids[1::2], strict=True))
        return [pairs[first:end] for first, end in pairwise(self.offsets.tolist())]

    def _is_visible(self) -> NDArray[np.bool_]:
        """Return which of the inputs and outputs, in turns, have cells: bool (2 × pairs,)."""
        visible = np.ones((len(self.pairs), 2), np.bool_)
        visible[:, 1] = self.pairs[:, OUTPUT] != HIDDEN
        return visible.ravel()


def _shape_keys(pairs: PairTable) -> NDArray[np.int16]:
    """Return a number for the size of each input and output, in turns: int16 (2 × pairs,)."""
    heights, widths = pairs[:, (INPUT + 1, OUTPUT + 1)], pairs[:, (INPUT + 2, OUTPUT + 2)]
    return (heights * SHAPE_BASE + widths).astype(np.int16).ravel()


def _expected_offsets(pairs: PairTable, is_visible: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Return the offset that the layout gives each visible grid, and the number of all cells."""
    keys = _shape_keys(pairs)[is_visible]
    order = np.argsort(keys, kind="stable")
    heights, widths = np.divmod(keys[order].astype(np.int64), SHAPE_BASE)
    ends = np.cumsum(heights * widths)
    offsets = np.empty(len(keys), np.int64)
    offsets[order] = ends - heights * widths
    return offsets, int(ends[-1]) if len(ends) else 0


def pack_store(tasks: Sequence[StoredTask]) -> bytes:
    """Return the packed file of tasks.

    Raises DataError if two have one id in one collection."""
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
    flags = [
        (is_test, pair) for task in tasks for is_test, group in enumerate((task.puzzle.train, task.puzzle.test)) for pair in group
    ]
    rows = [
        (is_test, 0, *pair.input.shape, *((HIDDEN, 0, 0) if pair.output is None else (0, *pair.output.shape)))
        for is_test, pair in flags
    ]
    pairs = np.array(rows, "<i4").reshape(-1, len(COLUMNS))
    grids = [grid for _, pair in flags for grid in (pair.input, pair.output)]
    is_visible = np.array([grid is not None for grid in grids], np.bool_)
    starts, num_cells = _expected_offsets(pairs, is_visible)
    body = np.empty(num_cells, np.uint8)
    for grid, start in zip(filter(lambda grid: grid is not None, grids), starts.tolist(), strict=True):
        body[start : start + grid.size] = grid.ravel()  # type: ignore[union-attr]
    columns = pairs[:, (INPUT, OUTPUT)].ravel()
    columns[is_visible] = starts
    pairs[:, (INPUT, OUTPUT)] = columns.reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum([len(task.puzzle.pairs) for task in tasks], dtype=np.int64)]).astype("<i4")
    _validate("packed tasks", header, pairs, offsets, body)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % LENGTH_BYTES)
    content = len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded + pairs.tobytes() + offsets.tobytes() + body.tobytes()
    return content + hashlib.sha256(content).digest()


def write_store(path: Path, tasks: Sequence[StoredTask]) -> None:
    """Write the packed file of tasks atomically.

    Raises DataError as `pack_store` does."""
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
    return PackedStore(header, pairs, offsets, cells)


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
    is_visible = np.stack([np.ones(num_pairs, np.bool_), ~is_hidden], 1).ravel()
    expected, num_cells = _expected_offsets(pairs, is_visible)
    in_order = np.stack([input_offset, output_offset], 1).ravel()[is_visible] == expected
    if not in_order.all():
        pair = int(np.flatnonzero(is_visible)[np.flatnonzero(~in_order)[0]]) // 2
        raise DataError(
            f"{name}: grids must lie in the order of their shapes without a gap, got an offset of pair {pair} that is not so"
        )
    if len(cells) != num_cells:
        raise DataError(f"{name}: must hold {num_cells} cells, got {len(cells)}")
    if num_pairs:
        firsts, lasts = is_test[offsets[:-1]], is_test[offsets[1:] - 1]
        is_sorted = np.diff(is_test) >= 0
        is_sorted[offsets[1:-1] - 1] = True  # a new task begins with demonstrations again
        if firsts.any() or not lasts.all() or not is_sorted.all():
            raise DataError(f"{name}: each task must have a demonstration pair, then a test pair, in this order")
    if len(cells) and cells.max() >= NUM_COLORS:
        raise DataError(f"{name}: colours must be 0 to 9, got {int(cells.max())} in cell {int(cells.argmax())}")
