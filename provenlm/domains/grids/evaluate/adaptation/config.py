"""Define the settings of test-time training: what is trained, and for how long."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AdapterConfig:
    """Configure which weights a task may train.

    lora: low-rank adapters (arXiv 2106.09685) on `target_modules`, the base frozen. full: every weight. none: nothing, the base predicts.
    """

    method: Literal["lora", "full", "none"] = "lora"
    target_modules: Literal["auto"] | tuple[str, ...] = (
        "auto"  # auto: every linear layer but the output embedding; else ends of names
    )
    rank: int = 64
    alpha: float = 16.0  # adapters are scaled by alpha / rank
    dropout: float = 0.0  # of the input of an adapter
    trained_modules: tuple[str, ...] = ()  # ends of names of modules trained in full beside the adapters, such as a task embedding
    seed: int = 0  # of the initial adapters

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: must be >= 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"alpha: must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be >= 0 and < 1, got {self.dropout}")
        if self.target_modules != "auto" and (isinstance(self.target_modules, str) or not self.target_modules):
            raise ValueError(f"target_modules: must be auto or a list of names, got {self.target_modules!r}")
        if self.method != "lora" and (self.target_modules != "auto" or self.trained_modules):
            raise ValueError(f"target_modules: must be auto, and trained_modules empty, for method {self.method}")


@dataclass(frozen=True)
class FineTuningConfig:
    """Configure the optimizer of one task's fine-tuning."""

    num_steps: int = 64
    batch_size: int = 2  # lessons per step
    learning_rate: float = 1e-4
    warmup_frac: float = 0.1  # fraction of the steps with a linearly growing learning rate
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0  # of the order of lessons

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")
        if not 0 <= self.warmup_frac <= 1:
            raise ValueError(f"warmup_frac: must be between 0 and 1, got {self.warmup_frac}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: must be >= 0, got {self.weight_decay}")
