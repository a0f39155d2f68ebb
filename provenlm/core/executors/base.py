"""What an engine is asked: work on each record of a corpus, in runs that fit in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from provenlm.core.records import Record

T = TypeVar("T")
BATCH_BYTES = 4 << 20
BATCH_RECORDS = 512


@dataclass(frozen=True)
class RecordMap(Generic[T]):
    """`do` gives one result a record, and depends on that record alone. `pack` and `unpack` are for results that travel."""

    apply: Callable[[Sequence[Record]], Sequence[T]]
    serialize: Callable[[T], bytes]
    deserialize: Callable[[bytes], T]


class RecordSource(Protocol):
    """Records that can be read more than once, the same each time."""

    def read(self) -> Iterator[Record]: ...

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]: ...


def batch_records(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Runs of at most BATCH_RECORDS records, none but a single record larger than BATCH_BYTES."""
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (size + len(record.content) > BATCH_BYTES or len(batch) == BATCH_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.content)
    if batch:
        yield batch
