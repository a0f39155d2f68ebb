"""Define what a task reports, and the row that is recorded for it."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "recovered", "oom", "timeout", "killed", "error"]


@dataclass(frozen=True)
class TaskOutcome:
    """Hold what a task's function returns.

    `answer` is a JSON value.
    """

    answer: Any
    num_trainable_params: int = 0
    num_steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    num_views: int = 0
    votes: tuple[int, ...] = ()  # of the chosen answers
    max_weight_change: float = 0.0  # of a trained parameter: 0 if training did nothing
    base_digest: str = ""  # of the weights of the base, before and after the task
    num_refused_lessons: int = 0  # too long for the model
    num_unreadable_answers: int = 0  # of views: no grid
    num_fallbacks: int = 0  # test outputs that were answered without the model
    num_leaky_views: int = 0  # that show more than the input to solve


@dataclass(frozen=True)
class TaskRow:
    """Hold the record of one task, a line of the journal.

    Status ok: finished. recovered: finished after it ran out of memory and used less (`rungs` says how). oom, timeout, killed, error: not
    finished, for `reason`; `answer` is then the last one that it sent before, if any. `is_started` is False where the time of the run was
    over. `run_key` is the digest of the settings of the run. `correct` is None where nobody knows the solution.
    """

    id: str
    run_key: str
    status: Status
    reason: str = ""
    is_started: bool = True
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0  # resident memory; of a process that was killed, when it was last seen
    peak_device_bytes: int | None = None  # reserved memory of a GPU
    num_trainable_params: int = 0
    num_steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    num_views: int = 0
    votes: tuple[int, ...] = ()
    max_weight_change: float = 0.0
    base_digest: str = ""
    num_refused_lessons: int = 0
    num_unreadable_answers: int = 0
    num_fallbacks: int = 0
    num_leaky_views: int = 0
    correct: bool | None = None
    rungs: tuple[str, ...] = ()
    unenforced_limits: tuple[str, ...] = ()
    answer: Any = None
