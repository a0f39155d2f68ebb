"""Compare event files by n-grams of events."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from provenlm.core.interfaces import DedupeSpec
from provenlm.core.ngram_hashing import Hashes, hash_ngrams
from provenlm.core.records import Record


@dataclass(frozen=True)
class ToyEventsDedupeConfig:
    """Configure the length of an n-gram."""

    ngram_events: int = 2


def ngram_hashes(config: ToyEventsDedupeConfig) -> Callable[[Record], Hashes]:
    """Build the function that hashes n-grams of events."""
    return lambda record: hash_ngrams(np.frombuffer(record.content[4:], "<u2").astype(np.uint64), config.ngram_events)


SPEC = DedupeSpec(ToyEventsDedupeConfig, lambda record: record.content, ngram_hashes, lambda config: 0.8)
