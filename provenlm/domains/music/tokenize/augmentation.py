"""Transpose and re-time training sequences, in the space of tokens.

No file grows, and held-out pieces stay as they are.

Every sequence is changed as a whole, so intervals and ratios of tempos stay. Shapes: B sequences, V ids, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from provenlm.core import rng
from provenlm.core.errors import DataError
from provenlm.core.interfaces import Augmentation
from provenlm.data.token_dataset import TokenDataset
from provenlm.domains.music.tokenize.batch_config import AugmentationConfig

PITCH_CLASSES = ("Pitch", "NoteOn", "NoteOff")
TEMPO_CLASSES = ("Tempo",)
TOKEN_FIELDS = ("inputs_BT", "targets_BT")  # of a batch


@dataclass(frozen=True)
class IdShift:
    """Shift the ids of some classes of tokens together.

    The shift is `lowest` to `highest` ids; no id leaves its class.

    `distance_below_V` and `distance_above_V` are the distances of an id from the first and last id of its class; the largest shift for ids of other classes.
    """

    lowest: int
    highest: int
    distance_below_V: Tensor
    distance_above_V: Tensor
    is_member_V: Tensor

    @classmethod
    def create(cls, classes: Sequence[NDArray[np.int64]], vocab_size: int, lowest: int, highest: int) -> "IdShift":
        """Build the shift of some classes.

        Raises DataError unless the ids of each are successive.
        """
        limit = max(-lowest, highest)
        distance_below_V, distance_above_V = torch.full((vocab_size,), limit), torch.full((vocab_size,), limit)
        is_member_V = torch.zeros(vocab_size, dtype=torch.bool)
        for class_ids in classes:
            first, last = int(class_ids[0]), int(class_ids[-1])
            if len(class_ids) != last - first + 1:
                raise DataError(f"ids of a class of tokens must be successive to be shifted, got {class_ids.tolist()}")
            ids = torch.arange(first, last + 1)
            distance_below_V[ids], distance_above_V[ids], is_member_V[ids] = ids - first, last - ids, True
        return cls(lowest, highest, distance_below_V, distance_above_V, is_member_V)

    def apply(self, fields: list[Tensor], shifts_B: Tensor) -> list[Tensor]:
        """Shift the ids (B, T) of each field.

        The shift is smaller where an id would leave its class; ids below 0 stay.
        """
        for ids_BT in fields:
            is_token_BT, index_BT = ids_BT >= 0, ids_BT.clamp(min=0)
            limit = max(-self.lowest, self.highest)
            below_B = torch.where(is_token_BT, self.distance_below_V[index_BT], limit).amin(1)
            above_B = torch.where(is_token_BT, self.distance_above_V[index_BT], limit).amin(1)
            shifts_B = torch.minimum(torch.maximum(shifts_B, -below_B), above_B)
        return [
            ids_BT + torch.where((ids_BT >= 0) & self.is_member_V[ids_BT.clamp(min=0)], shifts_B[:, None], 0) for ids_BT in fields
        ]


def build_augmentation(dataset: TokenDataset, config: AugmentationConfig, seed: int) -> Augmentation | None:
    """Return the augmentation of a data set; None if it changes nothing.

    Each draw of a sequence takes one of the transpositions and one of the tempo changes, all equally likely.
    """
    shifts: list[IdShift] = []
    for names, lowest, highest in (
        (PITCH_CLASSES, -config.max_semitones_down, config.max_semitones_up),
        (TEMPO_CLASSES, -config.max_tempo_bins, config.max_tempo_bins),
    ):
        classes = [dataset.token_classes[name] for name in names if name in dataset.token_classes]
        if classes and lowest < highest:
            shifts.append(IdShift.create(classes, dataset.vocab_size, lowest, highest))
        elif names == PITCH_CLASSES and not classes:
            raise DataError(f"the tokens must have one of the classes {', '.join(names)} for augmentation; run tokenize again")
    if not shifts:
        return None

    def augment(batch: Any, draws_B: NDArray[np.int64]) -> Any:
        fields = [getattr(batch, name) for name in TOKEN_FIELDS]
        for shift, amounts_B in zip(shifts, draw_shifts(shifts, draws_B, seed), strict=True):
            fields = shift.apply(fields, amounts_B)
        return replace(batch, **dict(zip(TOKEN_FIELDS, fields, strict=True)))

    counts = [shift.highest - shift.lowest + 1 for shift in shifts]
    return Augmentation(
        augment, int(np.prod(counts)), " × ".join(map(str, counts)) + " shifts of pitch, then tempo where it has tokens"
    )


def draw_shifts(shifts: Sequence[IdShift], draws_B: NDArray[np.int64], seed: int) -> list[Tensor]:
    """Draw the amount of each shift for each sequence.

    It depends on the seed and the number of the draw alone.
    """
    amounts = [
        [int(generator.integers(shift.lowest, shift.highest + 1)) for shift in shifts]
        for draw in draws_B.tolist()
        for generator in [rng.make_rng(seed, "augmentation", draw)]
    ]
    return list(torch.tensor(amounts, dtype=torch.int64).reshape(len(draws_B), len(shifts)).T)
