"""What an engine is asked: work on each record of a corpus, in runs that fit in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from provenlm.core.records import Record

T = TypeVar("T")
BATCH_BYTES = 4 << 20
BATCH_RECORDS = 512


@dataclass(frozen=True)
class Work(Generic[T]):
    """`do` gives one result a record, and depends on that record alone. `pack` and `unpack` are for results that travel."""

    do: Callable[[Sequence[Record]], Sequence[T]]
    pack: Callable[[T], bytes]
    unpack: Callable[[bytes], T]


class Corpus(Protocol):
    """Records that can be read more than once, the same each time."""

    def read(self) -> Iterator[Record]: ...

    def map(self, work: Work[T]) -> Iterator[tuple[Record, T]]: ...


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Runs of at most BATCH_RECORDS records, none but a single record larger than BATCH_BYTES."""
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (size + len(record.body) > BATCH_BYTES or len(batch) == BATCH_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.body)
    if batch:
        yield batch
