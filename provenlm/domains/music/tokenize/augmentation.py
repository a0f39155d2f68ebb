"""Transpose pieces while training, in the space of tokens: no file grows, and held-out pieces stay as they are."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core import rng
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer

PITCH_CLASSES = ("Pitch", "NoteOn", "NoteOff")
TEMPO_CLASS = "Tempo"


class TokenSequences(Protocol):
    """Give batches of next-token training by index, with `inputs_BT` and `targets_BT`."""

    def __len__(self) -> int: ...

    def get_batch(self, indices: NDArray[np.int64]) -> Any: ...


@dataclass(frozen=True)
class AugmentationConfig:
    """Configure augmentation; the seed of the recipe decides which sequence changes how.

    max_semitones: transpose up or down by at most so much. max_tempo_bins: change the tempo by at most so many tempo tokens.
    num_variants: variants of each sequence in an epoch.
    """

    max_semitones: int = 5
    max_tempo_bins: int = 2
    num_variants: int = 12

    def __post_init__(self) -> None:
        if not 0 <= self.max_semitones <= 11:
            raise ValueError(f"max_semitones must be from 0 to 11, got {self.max_semitones}")
        if self.max_tempo_bins < 0:
            raise ValueError(f"max_tempo_bins must be >= 0, got {self.max_tempo_bins}")
        if self.num_variants < 1:
            raise ValueError(f"num_variants must be >= 1, got {self.num_variants}")


@dataclass(frozen=True)
class AugmentedSequences:
    """Give `num_variants` transposed and re-timed variants of each sequence; the first variant of each is the original.

    `ranges`: ids that are shifted together, as (first id, last id, whether it is tempo).
    """

    sequences: TokenSequences
    config: AugmentationConfig
    ranges: tuple[tuple[int, int, bool], ...]
    seed: int

    def __len__(self) -> int:
        return len(self.sequences) * self.config.num_variants

    def get_batch(self, indices: NDArray[np.int64]) -> Any:
        """Return variants: index n is variant n // len(sequences) of sequence n % len(sequences)."""
        batch = self.sequences.get_batch(indices % len(self.sequences))
        inputs_BT, targets_BT = batch.inputs_BT.clone(), batch.targets_BT.clone()
        for row, index in enumerate(indices.tolist()):
            if index < len(self.sequences):
                continue
            generator = rng.make_rng(self.seed, "augmentation", index)
            semitones = int(generator.integers(-self.config.max_semitones, self.config.max_semitones + 1))
            tempo_bins = int(generator.integers(-self.config.max_tempo_bins, self.config.max_tempo_bins + 1))
            self._shift(inputs_BT[row], targets_BT[row], semitones, is_tempo=False)
            self._shift(inputs_BT[row], targets_BT[row], tempo_bins, is_tempo=True)
        return replace(batch, inputs_BT=inputs_BT, targets_BT=targets_BT)

    def _shift(self, inputs_T: Tensor, targets_T: Tensor, shift: int, is_tempo: bool) -> None:
        """Shift ids in place, by less where a note or tempo would leave its range: intervals and tempo ratios stay."""
        ranges = [(first, last) for first, last, tempo in self.ranges if tempo == is_tempo]
        for first, last in ranges:
            for ids_T in (inputs_T, targets_T):
                affected = ids_T[(ids_T >= first) & (ids_T <= last)]
                if len(affected):
                    shift = max(first - int(affected.min()), min(last - int(affected.max()), shift))
        for first, last in ranges:
            for ids_T in (inputs_T, targets_T):
                ids_T += torch.where((ids_T >= first) & (ids_T <= last), shift, 0)


def augment_sequences(
    sequences: TokenSequences, tokenizer: MidiTokenizer, config: AugmentationConfig, seed: int
) -> AugmentedSequences:
    """Wrap the sequences of the training split. ValueError if the ids of a class are not successive."""
    ranges: list[tuple[int, int, bool]] = []
    for name in (*PITCH_CLASSES, TEMPO_CLASS):
        ids = tokenizer.token_classes.get(name)
        if ids is None:
            continue
        if len(ids) != ids[-1] - ids[0] + 1:
            raise ValueError(f"ids of {name} must be successive, got {ids.tolist()}")
        ranges.append((int(ids[0]), int(ids[-1]), name == TEMPO_CLASS))
    return AugmentedSequences(sequences, config, tuple(ranges), seed)
