"""Solve many puzzles within a budget, with a complete submission at any time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from provenlm.core import io
from provenlm.domains.grids.content.puzzle import Grid, Puzzle, find_grid_fault, to_grid
from provenlm.domains.grids.evaluate.budgets.outcome import TaskRow
from provenlm.domains.grids.evaluate.budgets.task_run import RunBudget, TaskRun
from provenlm.domains.grids.evaluate.budgets.worker import TaskFunction
from provenlm.domains.grids.evaluate.submission import encode_submission

JOURNAL_FILE, SUBMISSION_FILE = "tasks.jsonl", "submission.json"


def solve_puzzles(
    puzzles: Mapping[str, Puzzle],
    tasks: Mapping[str, Any],
    function: TaskFunction,
    budget: RunBudget,
    folder: Path,
    run_key: str,
    solutions: Mapping[str, Sequence[Grid | None]] | None = None,
    preloaded_modules: Sequence[str] = (),
) -> dict[str, TaskRow]:
    """Run every task and write tasks.jsonl and submission.json to `folder`.

    `tasks` is what the workers get, without solutions; `solutions`, where they are known, decide what is correct. The submission is
    complete from before the first task on. A run with the same `run_key` in the same folder resumes.
    """

    def write_results(rows: Mapping[str, TaskRow]) -> None:
        """Write the submission of the rows so far."""
        attempts = {task_id: read_answer(row.answer) for task_id, row in rows.items()}
        io.write_bytes(folder / SUBMISSION_FILE, encode_submission(puzzles, attempts))

    def is_correct(task_id: str, answer: Any) -> bool | None:
        """Return whether one of the attempts at every output is its solution."""
        outputs = () if solutions is None else solutions.get(task_id, ())
        if not outputs or any(output is None for output in outputs):
            return None
        attempts = read_answer(answer)
        return len(attempts) == len(outputs) and all(
            any(np.array_equal(grid, output) for grid in grids)
            for grids, output in zip(attempts, outputs, strict=True)
            if output is not None
        )

    run = TaskRun(function, budget, folder / JOURNAL_FILE, run_key, write_results, is_correct, preloaded_modules)
    return run.run(tasks)


def read_answer(answer: Any) -> list[list[Grid]]:
    """Return the attempts of each test output; what is no grid is left out."""
    outputs = answer if isinstance(answer, list) else []
    return [
        [to_grid(grid) for grid in (grids if isinstance(grids, list) else []) if find_grid_fault(grid) is None] for grids in outputs
    ]
