"""Apply a record map with Daft, locally or on a Ray cluster.

On this machine it uses all cores. Daft comes with the extra `[scale]`.

Workers read the shards themselves, so a cluster must see them under the same path and must have this package installed. Results are
returned in record order, so the executor cannot change the output.
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
from provenlm.core.executors.base import RecordMap, batch_records
from provenlm.core.records import Record

T = TypeVar("T")


class DaftExecutor:
    """Process the records of `folder` with Daft.

    An empty `address` means this machine, otherwise a Ray cluster.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder.resolve()
        configure_daft(address)

    def read(self) -> Iterator[Record]:
        """Yield every record."""
        return records.read_records(self.folder)

    def map(self, record_map: RecordMap[T]) -> Iterator[tuple[Record, T]]:
        """Yield every record with its result, in record order.

        Memory holds the results of one shard.
        """

        @daft.func.batch(return_dtype=DataType.binary())  # type: ignore[untyped-decorator,unused-ignore]
        def apply_to_columns(record_id: Any, media_type: Any, source: Any, content: Any, metadata: Any) -> Any:
            columns = [column.to_pylist() for column in (record_id, media_type, source, content, metadata)]
            items = [
                Record(name, kind, origin, data, json.loads(metadata_json))
                for name, kind, origin, data, metadata_json in zip(*columns, strict=True)
            ]
            return pa.array(
                [record_map.serialize(result) for batch in batch_records(items) for result in record_map.apply(batch)],
                pa.large_binary(),
            )

        names = [field.name for field in records.RECORD_SCHEMA]
        keys = [name for name in names if name not in ("media_type", "content")]
        for shard in sorted(self.folder.glob("[0-9]*.parquet")):
            results_by_key: defaultdict[tuple[str, ...], list[bytes]] = defaultdict(list)
            frame = daft.read_parquet(str(shard)).select(*names)
            results = frame.select(*(col(key) for key in keys), apply_to_columns(*(col(name) for name in names)).alias("result"))
            for part in results.to_arrow_iter():
                for row in pa.Table.from_batches([part]).to_pylist():
                    results_by_key[tuple(row[key] for key in keys)].append(row["result"])
            for record, key in zip(records.read_record_shard(shard), row_keys(shard, keys), strict=True):
                yield record, record_map.deserialize(results_by_key[key].pop())


def row_keys(shard: Path, keys: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the values of the columns `keys` for each row of a shard."""
    table = records.read_columns(shard, keys)
    return zip(*(table[key].to_pylist() for key in keys), strict=True)


@cache
def configure_daft(address: str) -> None:
    """Select the local runner or a Ray cluster. A process can do this only once."""
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    if address:
        daft.set_runner_ray(address, noop_if_initialized=True)
    else:
        daft.set_runner_native()
