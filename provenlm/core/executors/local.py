"""Work on each record of a corpus in; its results out, in the order of the records, wherever the work was done.

`Here` does it in this process. Daft (provenlm/core/on_daft.py) does it on all cores or on a cluster; the results are the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provenlm.core.errors import ProvenlmError
from provenlm.core.executors.base import RecordMap, RecordSource, batch_records
from provenlm.core.records import Record, read_records

T = TypeVar("T")


@dataclass(frozen=True)
class LocalExecutor:
    """The engine that is always there: one process, one batch at a time in memory."""

    open_records: Callable[[], Iterable[Record]]

    def read(self) -> Iterator[Record]:
        return iter(self.open_records())

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]:
        for batch in batch_records(self.open_records()):
            yield from zip(batch, record_map.apply(batch), strict=True)


def make_executor(folder: Path, executor: str | None) -> RecordSource:
    """The records of `folder` on the engine that `engine` in params.yaml names. ProvenlmError for one that is not known or not installed."""
    if executor is None:
        return LocalExecutor(lambda: read_records(folder))
    if executor != "daft" and not executor.startswith("ray://"):
        raise ProvenlmError(
            f"engine: {executor!r} is none of: null (this process), daft (all cores), ray://HOST:PORT (a cluster, by Daft)"
        )
    try:
        from provenlm.core.executors.daft import DaftExecutor
    except ImportError:
        raise ProvenlmError(f"engine: {executor} needs Daft: pip install -e '.[scale]', or take the entry out") from None
    return DaftExecutor(folder, executor.removeprefix("daft"))
