"""Records of strings in; out, their bytes as they are, and no shingles: only equal strings are twins."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from provenlm.core.interfaces import DedupeSpec
from provenlm.core.records import Record


@dataclass(frozen=True)
class StringsDedupeConfig:
    """None."""


def normalize(record: Record) -> bytes:
    return record.content


def ngram_hashes(config: StringsDedupeConfig) -> Callable[[Record], NDArray[np.uint64]]:
    return lambda record: np.zeros(0, np.uint64)


def jaccard_threshold(config: StringsDedupeConfig) -> float:
    return inf


SPEC = DedupeSpec(StringsDedupeConfig, normalize, ngram_hashes, jaccard_threshold)
