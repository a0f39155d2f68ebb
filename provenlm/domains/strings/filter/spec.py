"""Keep all strings: whoever lists a string wants it in the corpus."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.interfaces import FilterResult, FilterSpec
from provenlm.core.records import Record


@dataclass(frozen=True)
class StringsFilterConfig:
    """Configure filtering of strings; there are no keys."""


def make_batch_filter(config: StringsFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    """Build the filter that keeps every record with a score of 1."""
    return lambda records: [FilterResult(record, None, {}, {}) for record in records]


def min_score(config: StringsFilterConfig) -> float:
    """Return 0: no score is too low."""
    return 0.0


SPEC = FilterSpec(StringsFilterConfig, make_batch_filter, min_score)
