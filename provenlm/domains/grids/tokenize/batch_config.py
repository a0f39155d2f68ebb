"""Define `train.batches` of recipes for puzzles."""

from dataclasses import dataclass, field
from typing import Any, Literal

from provenlm.core.config import parse_config


@dataclass(frozen=True)
class GridAugmentationConfig:
    """Configure the views of a training pair, drawn anew in each epoch.

    symmetries: rotate and mirror grids. colors: permute the colours but 0 and those that only outputs of the task have.
    """

    symmetries: bool = True
    colors: bool = True


@dataclass(frozen=True)
class GridBatchConfig:
    """Configure training batches of puzzles.

    layout: pairs gives one pair of grids with coordinates a sequence; tokens gives streams for next-token training, as
        `train.data_packing` says.
    in_place: predict the outputs of a task whose demonstrations keep the size at the cells of the input, instead of in a plane of their own.
    augmentation: views of training pairs; null: none. Streams are never augmented.
    """

    layout: Literal["pairs", "tokens"] = "pairs"
    in_place: bool = True
    augmentation: GridAugmentationConfig | None = field(default_factory=GridAugmentationConfig)


def parse_batch_config(train_config: Any) -> GridBatchConfig:
    """Parse the section `batches` of a TrainConfig. Raises ConfigError."""
    return parse_config(GridBatchConfig, train_config.batches, "train.batches")
