"""Define the config of the grid transformer.

It is a recipe's `model` section with `arch: grid_transformer`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from provenlm.core.errors import ConfigError

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_cells")
TASK_CLASS = "Task"  # class of the tokenizer with one id for each task of the corpus, in the order of the batches' `tasks_B`
MIN_HEAD_DIM = 6  # a pair of components for each of row, column and plane


@dataclass(frozen=True)
class GridTransformerConfig:
    """Configure a bidirectional transformer whose positions are the cells of grids.

    num_tasks: tasks with an embedding of their own; null: as many as the corpus has. rope_theta: base of the rotary frequencies, low
    because rows and columns end at 29. max_cells: cells of the longest sequence: an input and an output grid of 30 × 30.

    The defaults build a model for two CPU cores, of 0.8 million parameters without task embeddings.
    """

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 344
    num_tasks: int | None = None
    max_cells: int = 1800
    rope_theta: float = 100.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        for name in ("rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size: must be a multiple of 2 * num_attention_heads = {2 * self.num_attention_heads}, got {self.hidden_size}"
            )
        if self.head_dim < MIN_HEAD_DIM:
            raise ValueError(
                f"hidden_size: must be >= {MIN_HEAD_DIM} * num_attention_heads = {MIN_HEAD_DIM * self.num_attention_heads}, "
                f"got {self.hidden_size}"
            )
        if self.num_tasks is not None and self.num_tasks < 1:
            raise ValueError(f"num_tasks: must be >= 1 or null, got {self.num_tasks}")

    @property
    def head_dim(self) -> int:
        """Return the size of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_task_embeddings(self) -> int:
        """Return the number of task embeddings.

        It is 1 as long as the corpus is unknown.
        """
        return self.num_tasks or 1


def with_token_classes(config: GridTransformerConfig, token_classes: Mapping[str, Sequence[int]]) -> GridTransformerConfig:
    """Return the config with the number of tasks of a corpus, unless it names one.

    Raises ConfigError if the tokenizer of the corpus has no class of tasks.
    """
    if config.num_tasks is not None:
        return config
    num_tasks = len(token_classes.get(TASK_CLASS, ()))
    if not num_tasks:
        known = ", ".join(sorted(token_classes)) or "none"
        raise ConfigError(
            f"num_tasks: must be a number for tokens without the class {TASK_CLASS}, got null; classes of this corpus: {known}"
        )
    return replace(config, num_tasks=num_tasks)
