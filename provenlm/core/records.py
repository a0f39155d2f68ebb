"""Read and write records, the items of a corpus, as Parquet shards."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import hashing
from provenlm.core.errors import DataError

RECORD_SCHEMA = pa.schema(
    [("id", pa.string()), ("media_type", pa.string()), ("source", pa.string()), ("content", pa.binary()), ("metadata", pa.string())]
)
ROW_GROUP_BYTES = 4 << 20
SHARD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """Hold one item of a corpus.

    `id` is a digest of `content`; `metadata` holds JSON values such as title and license.
    """

    id: str
    media_type: str
    source: str
    content: bytes
    metadata: Mapping[str, Any]

    @classmethod
    def from_content(cls, content: bytes, media_type: str, source: str, **metadata: Any) -> "Record":
        """Create a record whose id is the first 32 hex digits of the SHA-256 of `content`."""
        return cls(hashing.sha256_bytes(content)[:32], media_type, source, content, metadata)

    @property
    def text(self) -> str:
        """Decode the content as UTF-8."""
        return self.content.decode("utf-8")

    def with_content(self, content: bytes) -> "Record":
        """Copy the record with other content and therefore another id."""
        return Record(hashing.sha256_bytes(content)[:32], self.media_type, self.source, content, self.metadata)

    def with_metadata(self, **metadata: Any) -> "Record":
        """Copy the record with `metadata` added to its own; equal keys are replaced."""
        return Record(self.id, self.media_type, self.source, self.content, {**self.metadata, **metadata})


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Hold the outcome of one URL, file or row of a source.

    That is exactly one state, with its reason.
    """

    url: str
    state: Literal["record", "skipped", "failed"]
    reason: str  # "" for a record, "stale" if its source did not answer this time; otherwise robots, http-404, too-large, …
    status: int | None  # HTTP status, None without a response
    received_bytes: int  # of the response body
    attempts: int  # requests sent
    seconds: float
    record: Record | None
    fetched_at: str = ""  # ISO 8601, UTC, when the content first arrived; not in the record, which must not depend on the clock


def write_records(records: Iterable[Record], folder: Path) -> int:
    """Write `records` to `folder` as Parquet shards; return their number.

    The shards are `00000.parquet`, `00001.parquet`, … of about 64 MB.

    Memory holds at most one row group of about 4 MB. An empty corpus is one shard without rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = shard = 0
    buffer: list[Record] = []
    buffered_bytes = shard_bytes = 0
    writer = _open_writer(folder, shard)
    for record in records:
        buffer.append(record)
        buffered_bytes += len(record.content) + 512
        count += 1
        if buffered_bytes >= ROW_GROUP_BYTES:
            writer.write_table(_to_table(buffer))
            shard_bytes += buffered_bytes
            buffer, buffered_bytes = [], 0
            if shard_bytes >= SHARD_BYTES:
                writer.close()
                shard, shard_bytes = shard + 1, 0
                writer = _open_writer(folder, shard)
    if buffer:
        writer.write_table(_to_table(buffer))
    writer.close()
    return count


def read_records(folder: Path) -> Iterator[Record]:
    """Yield every record of `folder` in shard order.

    Raises DataError if there are no shards or one is damaged.
    """
    shards = sorted(folder.glob("[0-9]*.parquet"))
    if not shards:
        raise DataError(f"{folder.as_posix()}: no records; run the stage that writes this folder")
    for shard in shards:
        yield from read_record_shard(shard)


def read_record_shard(shard: Path) -> Iterator[Record]:
    """Yield every record of one shard. Raises DataError if it is damaged."""
    try:
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=512):
                columns = [batch.column(name).to_pylist() for name in RECORD_SCHEMA.names]
                for record_id, media_type, source, content, metadata in zip(*columns, strict=True):
                    yield Record(record_id, media_type, source, content, json.loads(metadata))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{shard.as_posix()}: damaged, or not a shard of records: {error}") from None


def read_columns(shard: Path, names: list[str]) -> pa.Table:
    """Read the columns `names` of one shard."""
    return pq.read_table(shard, columns=names)


def count_records(folder: Path) -> int:
    """Count the records of `folder` from the footers of its shards."""
    return sum(pq.read_metadata(shard).num_rows for shard in sorted(folder.glob("[0-9]*.parquet")))


def read_ids_by_source(folder: Path) -> dict[str, str]:
    """Map the source of each record of `folder` to its id.

    Raises DataError if a shard is damaged.
    """
    ids_by_source: dict[str, str] = {}
    for shard in sorted(folder.glob("[0-9]*.parquet")):
        try:
            table = pq.read_table(shard, columns=["source", "id"])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shard.as_posix()}: damaged, or not a shard of records: {error}") from None
        ids_by_source.update(zip(table["source"].to_pylist(), table["id"].to_pylist(), strict=True))
    return ids_by_source


def _open_writer(folder: Path, shard: int) -> pq.ParquetWriter:
    """Open a shard with page checksums, so that a flipped bit raises an error."""
    return pq.ParquetWriter(folder / f"{shard:05}.parquet", RECORD_SCHEMA, compression="zstd", write_page_checksum=True)


def _to_table(rows: list[Record]) -> pa.Table:
    columns = {
        "id": [r.id for r in rows],
        "media_type": [r.media_type for r in rows],
        "source": [r.source for r in rows],
        "content": [r.content for r in rows],
        "metadata": [json.dumps(dict(r.metadata), sort_keys=True, ensure_ascii=False) for r in rows],
    }
    return pa.table(columns, schema=RECORD_SCHEMA)
