"""Deduplicate equal strings; near-duplicates are not searched for."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from provenlm.core.interfaces import DedupeSpec
from provenlm.core.records import Record


@dataclass(frozen=True)
class StringsDedupeConfig:
    """Configure deduplication of strings; there are no keys."""


def normalize(record: Record) -> bytes:
    """Return the content unchanged."""
    return record.content


def ngram_hashes(config: StringsDedupeConfig) -> Callable[[Record], NDArray[np.uint64]]:
    """Build the function that returns no n-grams."""
    return lambda record: np.zeros(0, np.uint64)


def jaccard_threshold(config: StringsDedupeConfig) -> float:
    """Return infinity: there are no near-duplicates."""
    return inf


SPEC = DedupeSpec(StringsDedupeConfig, normalize, ngram_hashes, jaccard_threshold)
