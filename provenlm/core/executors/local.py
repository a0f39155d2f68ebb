"""Apply a record map in this process, or choose another executor by name.

`LocalExecutor` uses one process; `executors/daft.py` uses all cores or a cluster. The results are the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provenlm.core.errors import ConfigError
from provenlm.core.executors.base import RecordMap, RecordSource, batch_records
from provenlm.core.records import Record, read_records

T = TypeVar("T")


@dataclass(frozen=True)
class LocalExecutor:
    """Process records in this process, with one batch in memory."""

    open_records: Callable[[], Iterable[Record]]

    def read(self) -> Iterator[Record]:
        """Yield every record."""
        return iter(self.open_records())

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]:
        """Yield every record with its result, in record order."""
        for batch in batch_records(self.open_records()):
            yield from zip(batch, record_map.apply(batch), strict=True)


def make_executor(folder: Path, executor: str | None) -> RecordSource:
    """Open the records of `folder` with the executor named in params.yaml.

    `executor=None` means this process.

    Raises ConfigError if the executor is unknown or not installed.
    """
    if executor is None:
        return LocalExecutor(lambda: read_records(folder))
    if executor != "daft" and not executor.startswith("ray://"):
        raise ConfigError(
            f"executor: must be null (this process), daft (all cores) or ray://HOST:PORT (a Ray cluster), got {executor!r}"
        )
    try:
        from provenlm.core.executors.daft import DaftExecutor
    except ImportError:
        raise ConfigError(f"executor: {executor} needs Daft: run `pip install -e '.[scale]'` or remove the key") from None
    return DaftExecutor(folder, executor.removeprefix("daft"))
