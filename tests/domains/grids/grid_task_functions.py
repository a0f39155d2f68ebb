"""Define what workers run in the tests of test-time training: each task does what its id names."""

import time
from dataclasses import replace

import torch

from provenlm.domains.grids.evaluate.adaptation.adapted_model import AdapterLeakError
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel
from provenlm.domains.grids.evaluate.solve.grid_solver import GridTask, solve_grid_task

KINDS = ("hangs", "allocates", "raises", "leaks", "changed", "votes")
TRAINED = TaskOutcome([], 12, 3, 2.0, 1.0, 8, (5,), 0.1)


def misbehave(task: GridTask, channel: TaskChannel) -> TaskOutcome:
    """Do what the id of the puzzle names."""
    kind = KINDS[int(task.puzzle.id, 16)]
    if kind == "hangs":
        time.sleep(100)
    elif kind == "allocates":
        bytearray(10**9)
    elif kind == "raises":
        raise ValueError("planted")
    elif kind == "leaks":
        raise AdapterLeakError("planted")
    return replace(TRAINED, base_digest="other" * (kind == "changed"), num_leaky_views=int(kind == "votes"))


def carry_over(task: GridTask, channel: TaskChannel) -> TaskOutcome:
    """Write trained weights back, for the next task to load."""
    outcome = solve_grid_task(task, channel)
    model = task.load_model()
    next(model.parameters()).data.add_(1.0)
    torch.save(model, task.load_model.args[0])
    return outcome
