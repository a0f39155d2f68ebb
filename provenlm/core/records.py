"""Records and the Parquet shards they live in."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import hashing
from provenlm.core.errors import ProvenlmError

RECORD_SCHEMA = pa.schema(
    [("id", pa.string()), ("media_type", pa.string()), ("source", pa.string()), ("body", pa.binary()), ("facts", pa.string())]
)
ROW_GROUP_BYTES = 4 << 20
SHARD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a corpus. `id` is the digest of the body; `facts` is what is known about it (title, licence …), JSON."""

    id: str
    media_type: str
    source: str
    content: bytes
    metadata: Mapping[str, Any]

    @classmethod
    def from_content(cls, content: bytes, media_type: str, source: str, **metadata: Any) -> "Record":
        return cls(hashing.sha256_bytes(content)[:32], media_type, source, content, metadata)

    @property
    def text(self) -> str:
        return self.content.decode("utf-8")

    def with_content(self, content: bytes) -> "Record":
        """The same item with another body, and so with another id."""
        return Record(hashing.sha256_bytes(content)[:32], self.media_type, self.source, content, self.metadata)

    def with_metadata(self, **metadata: Any) -> "Record":
        return Record(self.id, self.media_type, self.source, self.content, {**self.metadata, **metadata})


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of one address that a scrape saw: it ends in exactly one state, with its reason."""

    url: str
    state: Literal["record", "refused", "failed"]
    reason: str  # "" for a record, or stale where its source could not be asked again; else why: robots, http-404, too-large, content-type, off-site …
    status: int | None  # HTTP status, if there was an answer
    received_bytes: int  # body bytes received
    attempts: int  # requests sent
    seconds: float
    record: Record | None
    fetched_at: str = ""  # ISO 8601, UTC: when its content first came; no fact of the record, which must not change with the clock


def write_records(records: Iterable[Record], folder: Path) -> int:
    """Write `records` as `00000.parquet`, `00001.parquet` … of about 64 MB each into `folder`; returns how many.

    At most one row group of about 4 MB is held in memory. An empty corpus is one shard without rows.
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
    """Every record below `folder`, shard by shard in name order. ProvenlmError names a missing or damaged shard."""
    shards = sorted(folder.glob("[0-9]*.parquet"))
    if not shards:
        raise ProvenlmError(f"{folder.as_posix()}: no records here; run the stage that writes them")
    for shard in shards:
        yield from read_record_shard(shard)


def read_record_shard(shard: Path) -> Iterator[Record]:
    """Every record of one file. ProvenlmError if it is damaged."""
    try:
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=512):
                columns = [batch.column(name).to_pylist() for name in RECORD_SCHEMA.names]
                for record_id, media_type, source, content, metadata in zip(*columns, strict=True):
                    yield Record(record_id, media_type, source, content, json.loads(metadata))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ProvenlmError(f"{shard.as_posix()}: damaged or not a shard of records: {error}") from None


def read_columns(shard: Path, names: list[str]) -> pa.Table:
    """Some columns of one file, as they are written."""
    return pq.read_table(shard, columns=names)


def count_records(folder: Path) -> int:
    """How many records `folder` holds, from the shards' footers alone."""
    return sum(pq.read_metadata(shard).num_rows for shard in sorted(folder.glob("[0-9]*.parquet")))


def read_ids_by_source(folder: Path) -> dict[str, str]:
    """The id of each record below `folder` by its source, from those two columns alone. ProvenlmError names a damaged shard."""
    ids_by_source: dict[str, str] = {}
    for shard in sorted(folder.glob("[0-9]*.parquet")):
        try:
            table = pq.read_table(shard, columns=["source", "id"])
        except (pa.ArrowException, OSError) as error:
            raise ProvenlmError(f"{shard.as_posix()}: damaged or not a shard of records: {error}") from None
        ids_by_source.update(zip(table["source"].to_pylist(), table["id"].to_pylist(), strict=True))
    return ids_by_source


def _open_writer(folder: Path, shard: int) -> pq.ParquetWriter:
    """A checksum a page, so that a flipped bit is an error and no other text."""
    return pq.ParquetWriter(folder / f"{shard:05}.parquet", RECORD_SCHEMA, compression="zstd", write_page_checksum=True)


def _to_table(rows: list[Record]) -> pa.Table:
    columns = {
        "id": [r.id for r in rows],
        "media_type": [r.media_type for r in rows],
        "source": [r.source for r in rows],
        "body": [r.content for r in rows],
        "facts": [json.dumps(dict(r.metadata), sort_keys=True, ensure_ascii=False) for r in rows],
    }
    return pa.table(columns, schema=RECORD_SCHEMA)
