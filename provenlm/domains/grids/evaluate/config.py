"""Define the section `validate.probes` of recipes for puzzles."""

from dataclasses import dataclass, field
from typing import Literal

HOUR = 3600.0
DEFAULT_LEARNING_RATES = {"lora": 2e-3, "full": 5e-4, "none": 0.0}


@dataclass(frozen=True)
class TestTimeBudgetConfig:
    """Configure what test-time training may use.

    wall_seconds: of all tasks together; what a task does not use is there for the next ones. task_seconds: of one task. memory_bytes: of
        all workers together; each may allocate its part.
    """

    wall_seconds: float = 2 * HOUR
    task_seconds: float = 300.0
    memory_bytes: int = 10 * 10**9

    def __post_init__(self) -> None:
        for name in ("wall_seconds", "task_seconds", "memory_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class TestTimeTrainingConfig:
    """Configure the training on each reported task before it is solved.

    method: lora trains adapters of every linear layer and the task embedding, full every weight, none nothing. rank, alpha: of the adapters.
    num_steps: of AdamW. views_per_step: views of demonstrations in a step. learning_rate: null: 2e-3 for lora, 5e-4 for full.
    num_workers: processes at a time, of one thread each; each task has a process of its own.
    """

    method: Literal["lora", "full", "none"] = "lora"
    rank: int = 16
    alpha: float = 16.0
    num_steps: int = 40
    views_per_step: int = 16
    learning_rate: float | None = None
    num_workers: int = 2
    budget: TestTimeBudgetConfig = field(default_factory=TestTimeBudgetConfig)

    def __post_init__(self) -> None:
        for name in ("rank", "num_steps", "views_per_step", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("alpha", "learning_rate"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @property
    def peak_learning_rate(self) -> float:
        """Return the learning rate after the warm-up."""
        return self.learning_rate or DEFAULT_LEARNING_RATES[self.method]


@dataclass(frozen=True)
class GridsEvalConfig:
    """Configure the evaluation of puzzles.

    color_permutations: views of each test input in each symmetry that training showed, each with other colours; 1 with a training that
        permutes none.
    num_examples: solved tasks to draw, and as many unsolved ones.
    test_time_training: train on the demonstrations of each reported task before it is solved; null: do not.
    """

    color_permutations: int = 8
    num_examples: int = 6
    test_time_training: TestTimeTrainingConfig | None = None

    def __post_init__(self) -> None:
        for name, least in (("color_permutations", 1), ("num_examples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
