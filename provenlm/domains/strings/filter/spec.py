"""Records of strings in; no reason to drop one and no parts of a score out: who writes a string into params.yaml wants it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.interfaces import FilterResult, FilterSpec
from provenlm.core.records import Record


@dataclass(frozen=True)
class StringsFilterConfig:
    """None."""


def make_batch_filter(config: StringsFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    return lambda records: [FilterResult(record, None, {}, {}) for record in records]


def min_score(config: StringsFilterConfig) -> float:
    return 0.0


SPEC = FilterSpec(StringsFilterConfig, make_batch_filter, min_score)
