"""Work on each record of a corpus in; its results out, in the order of the records, wherever the work was done.

`Here` does it in this process. Daft (provenlm/core/on_daft.py) does it on all cores or on a cluster; the results are the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provenlm.core.errors import UserError
from provenlm.core.executors.base import Corpus, Work, batches
from provenlm.core.records import Record, read

T = TypeVar("T")


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
        from provenlm.core.executors.daft import OnDaft
    except ImportError:
        raise UserError(f"engine: {name} needs Daft: pip install -e '.[scale]', or take the entry out") from None
    return OnDaft(folder, name.removeprefix("daft"))
