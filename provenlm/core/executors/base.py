"""Define the interface of an executor and cut records into batches.

A batch fits in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from provenlm.core.records import Record

T = TypeVar("T")
BATCH_BYTES = 4 << 20
BATCH_RECORDS = 512


@dataclass(frozen=True)
class RecordMap(Generic[T]):
    """Map records to results.

    `apply` returns one result per record, which depends on that record alone.

    `serialize` and `deserialize` carry results between processes.
    """

    apply: Callable[[Sequence[Record]], Sequence[T]]
    serialize: Callable[[T], bytes]
    deserialize: Callable[[bytes], T]


class RecordSource(Protocol):
    """Read the same records any number of times."""

    def read(self) -> Iterator[Record]:
        """Yield every record."""
        ...

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]:
        """Yield every record with its result, in record order."""
        ...


def batch_records(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield batches of at most BATCH_RECORDS records and BATCH_BYTES bytes.

    A larger record is a batch by itself.
    """
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
