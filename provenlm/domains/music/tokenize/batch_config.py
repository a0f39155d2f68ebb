"""Define `train.batches` of recipes for music."""

from dataclasses import dataclass, field
from typing import Any, Literal

from provenlm.core.config import parse_config


@dataclass(frozen=True)
class AugmentationConfig:
    """Configure the variants of a training sequence, by default all twelve keys.

    max_semitones_down, max_semitones_up: how far a sequence may be transposed. max_tempo_bins: by how many tempo tokens a tempo may be
    lower or higher, for tokenizers with such tokens.
    """

    max_semitones_down: int = 5
    max_semitones_up: int = 6
    max_tempo_bins: int = 2

    def __post_init__(self) -> None:
        for name in ("max_semitones_down", "max_semitones_up"):
            if not 0 <= getattr(self, name) <= 12:
                raise ValueError(f"{name} must be from 0 to 12, got {getattr(self, name)}")
        if self.max_tempo_bins < 0:
            raise ValueError(f"max_tempo_bins must be >= 0, got {self.max_tempo_bins}")


@dataclass(frozen=True)
class MusicBatchConfig:
    """Configure training batches of music.

    layout: tokens for next-token training, as `train.data_packing` says, or bars for models with a latent for each bar.
    augmentation: variants of training sequences, drawn anew in each epoch; null: none.
    """

    layout: Literal["tokens", "bars"] = "tokens"
    augmentation: AugmentationConfig | None = field(default_factory=AugmentationConfig)


def parse_batch_config(train_config: Any) -> MusicBatchConfig:
    """Parse the section `batches` of a TrainConfig. Raises ConfigError."""
    return parse_config(MusicBatchConfig, train_config.batches, "train.batches")
