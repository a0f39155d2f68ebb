"""Filter tasks by the integrity of their grids.

A task is kept if its grids are rectangular, have sides from 1 to 30 and colours from 0 to 9, and if it has a training and a test pair. That its id
is unique is ensured by the stage scrape, which sees all tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.errors import DataError
from provenlm.core.interfaces import CountLabel, FilterResult, FilterSpec
from provenlm.core.records import Record
from provenlm.domains.grids.content.puzzle import find_fault, full_task

PRIORITY_OF_TRAINING = 0.5  # deduplication keeps the record with the higher score: a reported task wins over one to train on


@dataclass(frozen=True)
class GridsFilterConfig:
    """Configure filtering of tasks; there are no keys."""


def make_batch_filter(config: GridsFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    """Build the filter; a record is dropped for the first fault of its grids.

    Solutions that are separated from a record are tested like the grids in it.
    """

    def classify(record: Record) -> FilterResult:
        try:
            task = full_task(record)
        except DataError:
            return FilterResult(record, "unreadable", {}, {})
        if fault := find_fault(task):
            return FilterResult(record, fault, {}, {})
        is_reported = bool(record.metadata.get("reported"))
        counts = {
            "pairs.train": len(task["train"]),
            "pairs.test": len(task["test"]),
            "tasks.reported": int(is_reported),
            "tasks.with_duplicates": int(bool(record.metadata.get("duplicates"))),
        }
        return FilterResult(record, None, {"priority": 1.0 if is_reported else PRIORITY_OF_TRAINING}, counts)

    return lambda records: [classify(record) for record in records]


def min_score(config: GridsFilterConfig) -> float:
    """Return 0: the score is the priority of a task, and no task is too low."""
    return 0.0


COUNT_LABELS = {
    "pairs.train": CountLabel("pairs", "Demonstration pairs of all tasks"),
    "pairs.test": CountLabel("pairs", "Test pairs of all tasks"),
    "tasks.reported": CountLabel("tasks", "Tasks on which results are reported; their test outputs are separated from the records"),
    "tasks.with_duplicates": CountLabel(
        "tasks", "Reported tasks that share a pair of grids, in some view, with a task that is not reported"
    ),
}

SPEC = FilterSpec(GridsFilterConfig, make_batch_filter, min_score, COUNT_LABELS.__getitem__)
