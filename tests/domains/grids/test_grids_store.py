"""Test the packed store: every grid comes back, every flipped bit and every planted fault is named."""

import hashlib
import json
import tracemalloc

import numpy as np
import pytest

from provenlm.core.errors import DataError
from provenlm.domains.grids.tokenize.packed_store import DIGEST_BYTES, StoredTask, open_store, pack_store, parse_store, write_store
from tests.domains.grids.puzzles import FLIP, GROW, official_puzzles, puzzle

TASKS = (StoredTask(puzzle(FLIP, "a")), StoredTask(puzzle(GROW, "b", split="evaluation"), True, ("x", "y")))


def equal(first, second):
    """Return whether two puzzles are equal, grid for grid."""
    pairs = [*zip(first.train, second.train, strict=True), *zip(first.test, second.test, strict=True)]
    grids = [(getattr(a, name), getattr(b, name)) for a, b in pairs for name in ("input", "output")]
    names = [(item.id, item.collection, item.split) for item in (first, second)]
    return names[0] == names[1] and all(a is b is None or np.array_equal(a, b) for a, b in grids)


def test_every_puzzle_comes_back_with_hidden_outputs_hidden(tmp_path):
    write_store(tmp_path / "tasks.grids", TASKS)
    store = open_store(tmp_path / "tasks.grids")
    assert len(store) == 2 and all(equal(item, task.puzzle) for item, task in zip(store, TASKS, strict=True))
    assert store[1].test[1].output is None
    assert (store.is_reported, store.duplicates) == ([False, True], [[], ["x", "y"]])
    for views, item in zip(store.grids(), store, strict=True):
        for (grid, output), pair in zip(views, item.pairs, strict=True):
            assert np.array_equal(grid, pair.input) and not grid.flags.writeable
            assert (output is None and pair.output is None) or np.array_equal(output, pair.output)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks.grids"]


def test_an_empty_store_opens():
    assert len(parse_store(pack_store([]), "empty")) == 0


@pytest.mark.parametrize("bit", range(8))
def test_each_flipped_bit_is_detected_and_the_file_named(bit):
    data = pack_store(TASKS)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        with pytest.raises(DataError, match="^tasks.grids: damaged: sha256 of header and body must be"):
            parse_store(bytes(flipped), "tasks.grids")


@pytest.mark.parametrize("size", [0, 39, 40, -1])
def test_a_file_that_is_cut_off_is_refused(size):
    with pytest.raises(DataError, match="^tasks.grids: "):
        parse_store(pack_store(TASKS)[:size], "tasks.grids")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="tasks.grids: must be a readable file of packed tasks"):
        open_store(tmp_path / "tasks.grids")


def resealed(change_header=None, pairs=(), offsets=(), cells=()):
    """Return a packed file with changed parts and a correct checksum; changes are (index, value)."""
    data = pack_store(TASKS)
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), bytearray(data[end:-DIGEST_BYTES])
    num_pairs = header["num_pairs"]
    (change_header or (lambda value: None))(header)
    table = np.frombuffer(body, "<i4", 7 * num_pairs).reshape(-1, 7)
    task_offsets = np.frombuffer(body, "<i4", 3, 28 * num_pairs)
    colors = np.frombuffer(body, np.uint8, offset=28 * num_pairs + 12)
    for array, changes in ((table, pairs), (task_offsets, offsets), (colors, cells)):
        for index, value in changes:
            array[index] = value
    encoded = json.dumps(header).encode()
    content = len(encoded).to_bytes(8, "little") + encoded + bytes(body)
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change_header": lambda header: header.update(format="x")}, "header must name the format"),
        ({"change_header": lambda header: header.update(version=2)}, "version must be 1, got 2"),
        ({"change_header": lambda header: header.update(num_pairs=-1)}, "header.num_pairs must be an integer >= 0"),
        ({"change_header": lambda header: header.update(num_pairs=10**6)}, "which are too few"),
        ({"change_header": lambda header: header.update(ids=["a"])}, "header.ids must be a list of 2 entries"),
        ({"change_header": lambda header: header.update(ids=["a", "a"])}, "ids must be unique in a collection, got 'a' twice"),
        ({"pairs": [((0, 0), 2)]}, r"is_test must be 0 or 1, got pair 0 \[2"),
        ({"pairs": [((0, 2), 31)]}, "sides must be 1 to 30, got pair 0"),
        ({"pairs": [((1, 6), 0)]}, "sides must be 1 to 30, got pair 1"),
        ({"pairs": [((0, 4), -1), ((0, 5), 0), ((0, 6), 0)]}, "only outputs of test pairs may be hidden"),
        ({"pairs": [((1, 1), 3)]}, "grids must lie in the order of their shapes without a gap, got an offset of pair 1"),
        ({"pairs": [((0, 0), 1)]}, "a demonstration pair, then a test pair"),
        ({"pairs": [((2, 0), 0)]}, "a demonstration pair, then a test pair"),
        ({"offsets": [(1, 0)]}, "each task must have at least 2 of the 7 pairs"),
        ({"offsets": [(2, 6)]}, "each task must have at least 2 of the 7 pairs"),
        ({"cells": [(3, 10)]}, "colours must be 0 to 9, got 10 in cell 3"),
    ],
)
def test_each_planted_fault_with_a_correct_checksum_is_named(changes, message):
    with pytest.raises(DataError, match=f"tasks.grids: .*{message}"):
        parse_store(resealed(**changes), "tasks.grids")


def test_resealing_without_a_change_is_no_fault():
    assert len(parse_store(resealed(), "tasks.grids")) == 2


def test_the_official_tasks_come_back_at_less_than_12_kb_each(tmp_path):
    puzzles = official_puzzles("arc1")
    write_store(tmp_path / "tasks.grids", [StoredTask(item) for item in puzzles.values()])
    open_store(tmp_path / "tasks.grids")  # what is allocated once does not count
    tracemalloc.start()
    store = open_store(tmp_path / "tasks.grids")
    views = store.grids()
    kept_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(views) == 800 and kept_bytes / 800 < 12_000
    assert all(equal(item, original) for item, original in zip(store, puzzles.values(), strict=True))
