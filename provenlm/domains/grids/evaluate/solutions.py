"""Read the solutions of the reported tasks, which training does not know.

No other package of the domain reads them; the stage train cannot import this one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenlm.core.errors import DataError
from provenlm.domains.grids.content.puzzle import Grid, Puzzle, find_grid_fault, to_grid
from provenlm.domains.grids.tokenize.grid_tokenizer import SOLUTIONS_FILE, TASKS_FILE, GridTokenizer
from provenlm.domains.grids.tokenize.packed_store import open_store
from provenlm.evaluation.probe import EvalContext

Solutions = Mapping[str, Sequence[Grid | None]]


@dataclass(frozen=True)
class ReportedTasks:
    """Hold the tasks on which results are reported, with their solutions.

    `puzzles` and `solutions` are by task id, test outputs in the order of the test pairs; a solution that nobody published is None.
    `task_numbers` are those of the tokens. `duplicated` are the ids of tasks that share a pair with a task that is not reported, if the
    stage dedupe had not dropped it.
    """

    puzzles: Mapping[str, Puzzle]
    task_numbers: Mapping[str, int]
    solutions: Solutions
    duplicated: frozenset[str]

    @property
    def num_outputs(self) -> int:
        """Return the number of test outputs with a known solution."""
        return sum(output is not None for outputs in self.solutions.values() for output in outputs)


def read_solutions(path: Path) -> dict[str, list[Grid | None]]:
    """Read solutions in Kaggle's layout: a list of grids by task id.

    Raises DataError if the file is missing or holds something else.
    """
    try:
        table: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.as_posix()}: must be a JSON file of solutions: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(grids, list) for grids in table.values()):
        raise DataError(f"{path.as_posix()}: must map task ids to lists of grids")
    for task_id, grids in table.items():
        for number, grid in enumerate(grids):
            if grid is not None and (fault := find_grid_fault(grid)):
                raise DataError(f"{path.as_posix()}: {task_id}: solution {number} must be a grid, got one with the fault {fault}")
    return {task_id: [None if grid is None else to_grid(grid) for grid in grids] for task_id, grids in table.items()}


def load_reported(context: EvalContext) -> ReportedTasks:
    """Read the reported tasks of a corpus. Raises DataError if there are none."""
    if not isinstance(context.tokenizer, GridTokenizer):
        raise DataError(f"tokenizer must be that of domain grids, got a {type(context.tokenizer).__name__}")
    return read_reported_tasks(context.tokenizer)


def read_reported_tasks(tokenizer: GridTokenizer) -> ReportedTasks:
    """Read the reported tasks of the corpus that a tokenizer was loaded from.

    Raises DataError if the tokenizer was not loaded, or a file is damaged.
    """
    if tokenizer.folder is None:
        raise DataError("tokenizer must be loaded from a folder to read its reported tasks")
    store, solutions = open_store(tokenizer.folder / TASKS_FILE), read_solutions(tokenizer.folder / SOLUTIONS_FILE)
    numbers = {store.ids[number]: number for number in range(len(store)) if store.is_reported[number]}
    puzzles = {task_id: store[number] for task_id, number in numbers.items()}
    for task_id, puzzle in puzzles.items():
        if len(solutions.get(task_id, ())) != len(puzzle.test):
            raise DataError(
                f"{(tokenizer.folder / SOLUTIONS_FILE).as_posix()}: {task_id}: must have {len(puzzle.test)} solutions, got {len(solutions.get(task_id, ()))}"
            )
    duplicated = frozenset(task_id for task_id, number in numbers.items() if store.duplicates[number])
    return ReportedTasks(puzzles, numbers, {task_id: solutions[task_id] for task_id in puzzles}, duplicated)
