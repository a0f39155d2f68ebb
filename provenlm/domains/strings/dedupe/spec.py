"""Records of strings in; out, their bytes as they are, and no shingles: only equal strings are twins."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from provenlm.core.interfaces import Deduping
from provenlm.core.records import Record


@dataclass(frozen=True)
class Settings:
    """None."""


def canonical(record: Record) -> bytes:
    return record.body


def shingles(settings: Settings) -> Callable[[Record], NDArray[np.uint64]]:
    return lambda record: np.zeros(0, np.uint64)


def threshold(settings: Settings) -> float:
    return inf


SPEC = Deduping(Settings, canonical, shingles, threshold)
