"""Solve tasks with the model of a folder: of a recipe, or of Hugging Face.

The functions run in workers. torch is imported there alone, so that the process that writes the submission starts at once.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from provenlm.core.errors import CheckpointError
from provenlm.domains.grids.content.puzzle import Puzzle
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel, TaskFunction

AdapterMethod = Literal["lora", "full", "none"]
RECIPE_FILE, HF_FILE = "model.json", "config.json"
SOLVE = "provenlm.domains.grids.evaluate.solve"


class FolderSolver(NamedTuple):
    """Hold the function that solves a `FolderTask`.

    `preloaded_modules` are those that its workers load first; `key` identifies the model.
    """

    function: TaskFunction
    preloaded_modules: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class FolderTask:
    """Hold what a worker needs for one puzzle, whose test outputs are hidden."""

    puzzle: Puzzle
    folder: Path
    num_views: int
    method: AdapterMethod
    device: str


def find_solver(folder: Path) -> FolderSolver:
    """Return how the model of a folder solves tasks.

    Raises CheckpointError if the folder holds no model.
    """
    for name, function, module in (
        (RECIPE_FILE, solve_with_grid_model, f"{SOLVE}.grid_solver"),
        (HF_FILE, solve_with_text_model, f"{SOLVE}.text_solver"),
    ):
        if (folder / name).is_file():
            files = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
            manifest = folder / "manifest.json"
            content = json.dumps(files).encode() + (manifest if manifest.is_file() else folder / name).read_bytes()
            return FolderSolver(function, (module,), hashlib.sha256(content).hexdigest())
    raise CheckpointError(f"{folder.as_posix()}: must be a folder with {RECIPE_FILE} of a recipe or {HF_FILE} of Hugging Face")


def solve_with_grid_model(task: FolderTask, channel: TaskChannel) -> TaskOutcome:
    """Solve a puzzle with the grid model of a recipe, as a task that is new to it."""
    from provenlm.domains.grids.evaluate.solve.grid_solver import GridSolverConfig, GridTask, adapter_config, solve_grid_task
    from provenlm.domains.grids.evaluate.solve.new_task import load_with_new_task

    model, number = load_with_new_task(task.folder, task.puzzle)
    model.to(task.device)
    config = GridSolverConfig(num_views=task.num_views)
    if task.method != config.adapter.method:
        config = replace(config, adapter=adapter_config(task.method, config.adapter.rank, config.adapter.alpha))
    return solve_grid_task(GridTask(task.puzzle, number, config, lambda: model), channel)


def solve_with_text_model(task: FolderTask, channel: TaskChannel) -> TaskOutcome:
    """Solve a puzzle with a language model, which sees grids as text."""
    import torch

    from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig
    from provenlm.domains.grids.evaluate.solve.text_solver import TextSolverConfig, TextTask, load_text_model, solve_text_task

    dtype = torch.bfloat16 if task.device == "cuda" else torch.float32
    load_model = partial(load_text_model, str(task.folder), dtype, task.device)
    config = TextSolverConfig(AdapterConfig(method=task.method), num_views=task.num_views)
    return solve_text_task(TextTask(task.puzzle, config, load_model), channel)
