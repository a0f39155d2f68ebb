"""Drop event files without events and score the others by their length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provenlm.core.interfaces import CountLabel, FilterResult, FilterSpec
from provenlm.core.records import Record


@dataclass(frozen=True)
class ToyEventsFilterConfig:
    """Configure the number of events from which on a record is good."""

    good_events: int = 4


def make_batch_filter(config: ToyEventsFilterConfig) -> Callable[[Sequence[Record]], Sequence[FilterResult]]:
    """Build the filter."""

    def classify(record: Record) -> FilterResult:
        num_events = (len(record.content) - 4) // 2
        return FilterResult(
            record,
            None if num_events else "no_events",
            {"events": min(1.0, num_events / config.good_events)},
            {"toy.events": num_events},
        )

    return lambda records: [classify(record) for record in records]


SPEC = FilterSpec(
    ToyEventsFilterConfig, make_batch_filter, lambda config: 0.2, lambda name: CountLabel("events", "Events in all records")
)
