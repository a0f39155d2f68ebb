"""Read the tasks to solve.

They are Kaggle's challenges file, a file with one task, or a folder of such files. A task with a fault is refused by its name and keeps its place in the submission, which must hold every task of the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenlm.core.errors import DataError
from provenlm.domains.grids.content.puzzle import MEDIA_TYPE, Puzzle, build_puzzle, find_fault, find_grid_fault, hide_solutions
from provenlm.domains.grids.scrape.task_json import make_task_item, parse_json
from provenlm.scraping.sources.folder import FolderSource, read_folder
from provenlm.scraping.sources.items import DroppedItem

MAX_FILE_BYTES = 4_000_000  # of a task
BLANK = [[0]]


@dataclass(frozen=True)
class TaskFiles:
    """Hold the tasks of some files by id, without their test outputs.

    `faults` says what was refused, by name. A refused task of a challenges file is in `puzzles` too, as one that shows nothing.
    """

    puzzles: dict[str, Puzzle]
    faults: dict[str, str]

    @property
    def sound(self) -> dict[str, Puzzle]:
        """Return the tasks without a fault."""
        return {task_id: puzzle for task_id, puzzle in self.puzzles.items() if task_id not in self.faults}


def read_task_files(path: Path) -> TaskFiles:
    """Read the tasks of a file or folder.

    Raises DataError if it cannot be read or holds no task without a fault.
    """
    files = _read_folder(path) if path.is_dir() else _read_file(path)
    if not files.sound:
        first = next((f"{name}: {fault}" for name, fault in files.faults.items()), "no task")
        raise DataError(f"{path.as_posix()}: must hold at least one task without a fault, got none; first: {first}")
    return files


def _read_folder(path: Path) -> TaskFiles:
    puzzles, faults = dict[str, Puzzle](), dict[str, str]()
    for item in read_folder(FolderSource("folder", str(path)), _media_type_of, MAX_FILE_BYTES):
        task_id = Path(item.url).stem
        if isinstance(item, DroppedItem):
            faults |= {item.url: item.drop.reason} if item.drop.reason != "media-type" else {}
        elif task_id in puzzles:
            faults[item.url] = "repeated-id"
        else:
            try:
                _add_task(task_id, parse_json(item.content), puzzles, faults)
            except DataError:
                faults[item.url] = "no-json"
    return TaskFiles(puzzles, faults)


def _media_type_of(name: str) -> str | None:
    return MEDIA_TYPE if name.endswith(".json") else None


def _read_file(path: Path) -> TaskFiles:
    try:
        table = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path.as_posix()}: must be a readable file or folder of tasks: {error.strerror}") from None
    except DataError as error:
        raise DataError(f"{path.as_posix()}: {error}") from None
    if not isinstance(table, dict):
        raise DataError(f"{path.as_posix()}: must be one task, or an object of tasks by id, got a {type(table).__name__}")
    is_task = {"train", "test"} <= table.keys()
    puzzles, faults = dict[str, Puzzle](), dict[str, str]()
    for task_id, task in {path.stem: table}.items() if is_task else table.items():
        _add_task(task_id, task, puzzles, faults)
    repeated = () if is_task else getattr(table, "repeated", ())
    return TaskFiles(puzzles, faults | {f"{task_id} (repeated)": "repeated-id" for task_id, _ in repeated})


def _add_task(task_id: str, task: Any, puzzles: dict[str, Puzzle], faults: dict[str, str]) -> None:
    """Add a task without its test outputs; with a fault, also what it is."""
    item = make_task_item(task, task_id, task_id, "", "test", {})
    challenge, _ = hide_solutions(task)
    fault = item.drop.reason if isinstance(item, DroppedItem) else find_fault(challenge)
    puzzles[task_id] = blank_puzzle(task, task_id) if fault else build_puzzle(challenge, task_id, "", "test")
    faults |= {task_id: fault} if fault else {}


def blank_puzzle(task: Any, task_id: str) -> Puzzle:
    """Return a puzzle in place of a faulty task.

    It has as many test inputs, and shows nothing but those that are grids.
    """
    tests = task.get("test") if isinstance(task, dict) else None
    pairs = tests if isinstance(tests, list) and tests else [None]
    inputs = [pair.get("input") if isinstance(pair, dict) else None for pair in pairs]
    shown = [{"input": BLANK if find_grid_fault(grid) else grid} for grid in inputs]
    return build_puzzle({"train": [{"input": BLANK, "output": BLANK}], "test": shown}, task_id, "", "test")
