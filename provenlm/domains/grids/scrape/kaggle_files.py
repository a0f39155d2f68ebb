"""Read the challenges and solutions files of the ARC Prize on Kaggle."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from provenlm.core.errors import ConfigError, DataError
from provenlm.domains.grids.content.puzzle import PuzzleSplit
from provenlm.domains.grids.scrape.task_json import TaskItem, parse_json, read_task_table
from provenlm.scraping.sources.items import DroppedItem, DropReason

SPLIT_IN_NAME = re.compile(r"(training|evaluation|test)_challenges\.json$")


@dataclass(frozen=True)
class KaggleSource:
    """Configure a challenges file, with or without its solutions, as a source.

    challenges: path of `arc-agi_…_challenges.json`. solutions: path of `arc-agi_…_solutions.json`; null: the test outputs are hidden.
    split: training, evaluation or test; null: as the name of the challenges file says. collection: name of the collection.
    """

    kind: Literal["kaggle"]
    challenges: str
    solutions: str | None = None
    split: PuzzleSplit | None = None
    collection: str = "kaggle"
    license: str | None = None

    def __post_init__(self) -> None:
        if self.split is None and SPLIT_IN_NAME.search(self.challenges) is None:
            raise ValueError(
                "split must be training, evaluation or test for a file whose name does not end in SPLIT_challenges.json, got null"
            )


def read_kaggle(source: KaggleSource) -> Iterator[TaskItem | DroppedItem]:
    """Yield every task of a challenges file with its solutions.

    A solution without a task, and a task with another number of solutions than test pairs, are refused. Raises ConfigError if a file does
    not exist, and DataError if it is not JSON.
    """
    match = SPLIT_IN_NAME.search(source.challenges)
    split = source.split or (match.group(1) if match else "")
    metadata = {"site": source.challenges, **({"license": source.license} if source.license else {})}
    table = _read_file(source.challenges, "challenges")
    solutions = {} if source.solutions is None else _read_file(source.solutions, "solutions")
    if not isinstance(solutions, dict):
        raise DataError(f"{source.solutions}: must be a JSON object of solutions by task id, got a {type(solutions).__name__}")
    for item in read_task_table(table, source.challenges, source.collection, split, metadata):
        is_solved = isinstance(item, TaskItem) and item.id in solutions
        yield _add_solutions(item, solutions[item.id]) if is_solved and isinstance(item, TaskItem) else item
    known_ids = table.keys() if isinstance(table, dict) else set()
    for task_id in solutions.keys() - known_ids:
        yield DroppedItem(f"{source.solutions}/{task_id}", DropReason("no-task"))
    for task_id, _ in getattr(solutions, "repeated", ()):
        yield DroppedItem(f"{source.solutions}/{task_id} (repeated)", DropReason("repeated-id"))


def _add_solutions(item: TaskItem, solutions: Any) -> TaskItem | DroppedItem:
    tests = item.task["test"]
    if not isinstance(solutions, list) or not isinstance(tests, list) or len(solutions) != len(tests):
        return DroppedItem(item.url, DropReason("number-of-solutions"), item.size)
    if not all(isinstance(pair, dict) for pair in tests):
        return DroppedItem(item.url, DropReason("no-task"), item.size)
    solved: Mapping[str, Any] = {
        **item.task,
        "test": [{**pair, "output": output} for pair, output in zip(tests, solutions, strict=True)],
    }
    return TaskItem(item.url, item.id, item.collection, item.split, solved, item.size, item.metadata)


def _read_file(name: str, key: str) -> Any:
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{key} must be a readable file, got {name!r}: {error.strerror}") from None
    try:
        return parse_json(content)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
