"""Shards of records and work in, results out: Daft does the work, on all cores of this machine or on a Ray cluster (extra `[scale]`).

Workers read the shards themselves, so a cluster must see them under the same path, and must have this package. What comes back is put
into the order of the records, so the engine cannot change a result.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import daft
import pyarrow as pa
from daft import DataType, col

from provenlm.core import records
from provenlm.core.executors.base import Work, batches
from provenlm.core.records import Record

T = TypeVar("T")


class OnDaft:
    """The records of a folder, worked on by Daft. `address`: of a Ray cluster; none: this machine."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder.resolve()
        use(address)

    def read(self) -> Iterator[Record]:
        return records.read(self.folder)

    def map(self, work: Work[T]) -> Iterator[tuple[Record, T]]:
        """One shard at a time; in memory are the results of one."""

        @daft.func.batch(return_dtype=DataType.binary())  # type: ignore[untyped-decorator,unused-ignore]
        def worked(identity: Any, media_type: Any, source: Any, body: Any, facts: Any) -> Any:
            columns = [column.to_pylist() for column in (identity, media_type, source, body, facts)]
            items = [Record(name, kind, of, data, json.loads(said)) for name, kind, of, data, said in zip(*columns, strict=True)]
            return pa.array([work.pack(result) for batch in batches(items) for result in work.do(batch)], pa.large_binary())

        names = [field.name for field in records.SCHEMA]
        keys = [name for name in names if name not in ("media_type", "body")]
        for shard in sorted(self.folder.glob("[0-9]*.parquet")):
            found: defaultdict[tuple[str, ...], list[bytes]] = defaultdict(list)
            frame = daft.read_parquet(str(shard)).select(*names)
            results = frame.select(*(col(key) for key in keys), worked(*(col(name) for name in names)).alias("result"))
            for part in results.to_arrow_iter():
                for row in pa.Table.from_batches([part]).to_pylist():
                    found[tuple(row[key] for key in keys)].append(row["result"])
            for record, key in zip(records.read_shard(shard), keys_of(shard, keys), strict=True):
                yield record, work.unpack(found[key].pop())


def keys_of(shard: Path, keys: list[str]) -> Iterator[tuple[str, ...]]:
    table = records.columns(shard, keys)
    return zip(*(table[key].to_pylist() for key in keys), strict=True)


@cache
def use(address: str) -> None:
    """Choose where Daft works: a process can do so once."""
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    if address:
        daft.set_runner_ray(address, noop_if_initialized=True)
    else:
        daft.set_runner_native()
