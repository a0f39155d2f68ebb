"""Work on each record of a corpus in; its results out, in the order of the records, wherever the work was done.

`Here` does it in this process. Daft (provenlm/core/on_daft.py) does it on all cores or on a cluster; the results are the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from provenlm.core.errors import UserError
from provenlm.core.record import Record, read

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


@dataclass(frozen=True)
class Here:
    """The engine that is always there: one process, one batch at a time in memory."""

    records: Callable[[], Iterable[Record]]

    def read(self) -> Iterator[Record]:
        return iter(self.records())

    def map(self, work: Work[T]) -> Iterator[tuple[Record, T]]:
        for batch in batches(self.records()):
            yield from zip(batch, work.do(batch), strict=True)


def over(folder: Path, name: str | None) -> Corpus:
    """The records of `folder` on the engine that `engine` in params.yaml names. UserError for one that is not known or not installed."""
    if name is None:
        return Here(lambda: read(folder))
    if name != "daft" and not name.startswith("ray://"):
        raise UserError(f"engine: {name!r} is none of: null (this process), daft (all cores), ray://HOST:PORT (a cluster, by Daft)")
    try:
        from provenlm.core.on_daft import OnDaft
    except ImportError:
        raise UserError(f"engine: {name} needs Daft: pip install -e '.[scale]', or take the entry out") from None
    return OnDaft(folder, name.removeprefix("daft"))


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
