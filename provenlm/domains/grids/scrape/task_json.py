"""Split JSON files into tasks; what is no task is refused with its reason.

A task is one JSON object with its pairs, a table maps ids to tasks. Whether the grids of a task are sound is for the filter to say.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provenlm.core.errors import DataError
from provenlm.scraping.sources.items import DroppedItem, DropReason


@dataclass(frozen=True, slots=True)
class TaskItem:
    """Hold a task before it becomes a record. `task` is its JSON value."""

    url: str
    id: str
    collection: str
    split: str
    task: Any
    size: int  # bytes of its JSON
    metadata: Mapping[str, Any] = field(default_factory=dict)


class RepeatedKeys(dict[str, Any]):
    """Hold a JSON object in which a key occurs more than once.

    `repeated` holds the values that a dict would lose: those after the first.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.repeated: list[tuple[str, Any]] = []
        super().__init__()
        for key, value in pairs:
            if key in self:
                self.repeated.append((key, value))
            else:
                self[key] = value


def parse_json(content: bytes) -> Any:
    """Parse JSON and keep repeated keys. Raises DataError for what is none."""

    def build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        return members if len(members) == len(pairs) else RepeatedKeys(pairs)

    try:
        return json.loads(content, object_pairs_hook=build_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"must be JSON, got {len(content)} bytes that are none: {error}") from None


def read_task_table(
    table: Any, url: str, collection: str, split: str, metadata: Mapping[str, Any]
) -> Iterator[TaskItem | DroppedItem]:
    """Yield every task of a table, and one refusal for whatever is none."""
    if not isinstance(table, dict):
        yield DroppedItem(url, DropReason("no-table", failed=True))
        return
    for task_id, task in table.items():
        yield make_task_item(task, f"{url}/{task_id}", task_id, collection, split, metadata)
    for task_id, task in getattr(table, "repeated", ()):
        yield DroppedItem(f"{url}/{task_id} (repeated)", DropReason("repeated-id"), _size_of(task))


def make_task_item(
    task: Any, url: str, task_id: str, collection: str, split: str, metadata: Mapping[str, Any]
) -> TaskItem | DroppedItem:
    """Return a task, or why a JSON value is none."""
    size = _size_of(task)
    if not isinstance(task, dict) or not {"train", "test"} <= task.keys():
        return DroppedItem(url, DropReason("no-task"), size)
    if isinstance(task, RepeatedKeys) or _has_repeated_keys(task):
        return DroppedItem(url, DropReason("repeated-key"), size)
    if not task_id:
        return DroppedItem(url, DropReason("no-id"), size)
    return TaskItem(url, task_id, collection, split, task, size, metadata)


def _has_repeated_keys(task: Mapping[str, Any]) -> bool:
    groups = (task[name] for name in ("train", "test") if isinstance(task[name], list))
    return any(isinstance(pair, RepeatedKeys) for group in groups for pair in group)


def _size_of(task: Any) -> int:
    return len(json.dumps(task, separators=(",", ":")))
