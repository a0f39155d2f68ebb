"""Write and read submissions of the ARC Prize: two attempts for each test output.

`{"TASK": [{"attempt_1": GRID, "attempt_2": GRID}, …], …}` names every task, with one entry for each test input, in their order.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from provenlm.core.errors import DataError
from provenlm.domains.grids.content.puzzle import Grid, Puzzle, find_grid_fault, to_grid
from provenlm.domains.grids.evaluate.size_rules import predict_sizes

NUM_ATTEMPTS = 2
ATTEMPT_KEYS = ("attempt_1", "attempt_2")

Attempts = Mapping[str, Sequence[Sequence[Grid]]]  # by task id, for each test input the attempts, best first


def fallback_attempts(puzzle: Puzzle) -> list[list[Grid]]:
    """Return an attempt for each test input that needs no model.

    It is the input, cut or filled with 0 to the size that the size rules predict.
    """
    attempts = []
    for pair, prediction in zip(puzzle.test, predict_sizes(puzzle), strict=True):
        height, width = prediction.size
        grid = to_grid([[0] * width] * height)
        common = (slice(min(height, pair.input.shape[0])), slice(min(width, pair.input.shape[1])))
        grid[common] = pair.input[common]
        attempts.append([grid])
    return attempts


def most_frequent_attempts(puzzle: Puzzle) -> list[list[Grid]]:
    """Return an attempt for each test input: one colour in the predicted size.

    It is the most frequent colour of the demonstrated outputs.
    """
    colors = np.concatenate([pair.output.ravel() for pair in puzzle.train if pair.output is not None])
    color = int(np.bincount(colors).argmax())
    return [[np.full(prediction.size, color, np.uint8)] for prediction in predict_sizes(puzzle)]


def attempts_json(attempts: Sequence[Sequence[Grid]]) -> list[list[list[list[int]]]]:
    """Convert the attempts at each output of a task to JSON."""
    return [[grid.tolist() for grid in grids] for grids in attempts]


def complete_attempts(puzzles: Mapping[str, Puzzle], attempts: Attempts) -> dict[str, list[list[Grid]]]:
    """Return two attempts for each test input of each task.

    Attempts that are no grid are left out, missing ones are fallbacks: the first one again, or that of `fallback_attempts`.
    """
    completed: dict[str, list[list[Grid]]] = {}
    for task_id, puzzle in puzzles.items():
        outputs, fallbacks = attempts.get(task_id, ()), fallback_attempts(puzzle)
        completed[task_id] = []
        for number, fallback in enumerate(fallbacks):
            grids = [grid for grid in (outputs[number] if number < len(outputs) else ()) if _is_grid(grid)]
            grids = (grids or fallback)[:NUM_ATTEMPTS]
            completed[task_id].append(grids + [grids[0]] * (NUM_ATTEMPTS - len(grids)))
    return completed


def _is_grid(grid: Any) -> bool:
    try:
        return find_grid_fault(grid.tolist()) is None
    except AttributeError:
        return False


def encode_submission(puzzles: Mapping[str, Puzzle], attempts: Attempts) -> bytes:
    """Return the JSON of a complete and valid submission, whatever attempts there are."""
    submission = {
        task_id: [{key: grid.tolist() for key, grid in zip(ATTEMPT_KEYS, grids, strict=True)} for grids in outputs]
        for task_id, outputs in complete_attempts(puzzles, attempts).items()
    }
    return json.dumps(submission, separators=(",", ":")).encode()


def find_submission_faults(submission: Any, puzzles: Mapping[str, Puzzle]) -> list[str]:
    """List the faults of a JSON value as a submission for the tasks."""
    if not isinstance(submission, dict):
        return ["must be an object of task ids"]
    faults = [f"{task_id}: is no task" for task_id in submission.keys() - puzzles.keys()]
    for task_id, puzzle in puzzles.items():
        outputs = submission.get(task_id)
        if not isinstance(outputs, list) or len(outputs) != len(puzzle.test):
            faults.append(f"{task_id}: must have {len(puzzle.test)} outputs")
            continue
        for number, output in enumerate(outputs):
            for key in ATTEMPT_KEYS:
                if not isinstance(output, dict) or key not in output:
                    faults.append(f"{task_id}: output {number} must have {key}")
                elif fault := find_grid_fault(output[key]):
                    faults.append(f"{task_id}: {key} of output {number} must be a grid, got one with the fault {fault}")
    return faults


def read_submission(path: Path, puzzles: Mapping[str, Puzzle]) -> dict[str, list[list[Grid]]]:
    """Read the attempts of a submission.

    Raises DataError, naming the first fault, if it is not complete and valid.
    """
    try:
        submission = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.as_posix()}: must be a JSON file: {error}") from None
    if faults := find_submission_faults(submission, puzzles):
        raise DataError(f"{path.as_posix()}: {faults[0]}; {len(faults)} faults in all")
    return {task_id: [[to_grid(output[key]) for key in ATTEMPT_KEYS] for output in submission[task_id]] for task_id in puzzles}
