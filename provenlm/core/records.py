"""Records and the Parquet shards they live in."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import hashing
from provenlm.core.errors import UserError

SCHEMA = pa.schema(
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
    body: bytes
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, body: bytes, media_type: str, source: str, **facts: Any) -> "Record":
        return cls(hashing.of_bytes(body)[:32], media_type, source, body, facts)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    def with_body(self, body: bytes) -> "Record":
        """The same item with another body, and so with another id."""
        return Record(hashing.of_bytes(body)[:32], self.media_type, self.source, body, self.facts)

    def with_facts(self, **facts: Any) -> "Record":
        return Record(self.id, self.media_type, self.source, self.body, {**self.facts, **facts})


@dataclass(frozen=True, slots=True)
class Fetch:
    """What became of one address that a scrape saw: it ends in exactly one state, with its reason."""

    url: str
    state: Literal["record", "refused", "failed"]
    reason: str  # "" for a record, or stale where its source could not be asked again; else why: robots, http-404, too-large, content-type, off-site …
    status: int | None  # HTTP status, if there was an answer
    bytes: int  # body bytes received
    tries: int  # requests sent
    seconds: float
    record: Record | None
    fetched_at: str = ""  # ISO 8601, UTC: when its content first came; no fact of the record, which must not change with the clock


def write(records: Iterable[Record], folder: Path) -> int:
    """Write `records` as `00000.parquet`, `00001.parquet` … of about 64 MB each into `folder`; returns how many.

    At most one row group of about 4 MB is held in memory. An empty corpus is one shard without rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = shard = 0
    rows: list[Record] = []
    held = in_shard = 0
    writer = _writer(folder, shard)
    for record in records:
        rows.append(record)
        held += len(record.body) + 512
        count += 1
        if held >= ROW_GROUP_BYTES:
            writer.write_table(_table(rows))
            in_shard += held
            rows, held = [], 0
            if in_shard >= SHARD_BYTES:
                writer.close()
                shard, in_shard = shard + 1, 0
                writer = _writer(folder, shard)
    if rows:
        writer.write_table(_table(rows))
    writer.close()
    return count


def read(folder: Path) -> Iterator[Record]:
    """Every record below `folder`, shard by shard in name order. UserError names a missing or damaged shard."""
    shards = sorted(folder.glob("[0-9]*.parquet"))
    if not shards:
        raise UserError(f"{folder.as_posix()}: no records here; run the stage that writes them")
    for shard in shards:
        yield from read_shard(shard)


def read_shard(shard: Path) -> Iterator[Record]:
    """Every record of one file. UserError if it is damaged."""
    try:
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=512):
                columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
                for identity, media_type, source, body, facts in zip(*columns, strict=True):
                    yield Record(identity, media_type, source, body, json.loads(facts))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{shard.as_posix()}: damaged or not a shard of records: {error}") from None


def columns(shard: Path, names: list[str]) -> pa.Table:
    """Some columns of one file, as they are written."""
    return pq.read_table(shard, columns=names)


def count(folder: Path) -> int:
    """How many records `folder` holds, from the shards' footers alone."""
    return sum(pq.read_metadata(shard).num_rows for shard in sorted(folder.glob("[0-9]*.parquet")))


def ids(folder: Path) -> dict[str, str]:
    """The id of each record below `folder` by its source, from those two columns alone. UserError names a damaged shard."""
    found: dict[str, str] = {}
    for shard in sorted(folder.glob("[0-9]*.parquet")):
        try:
            table = pq.read_table(shard, columns=["source", "id"])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{shard.as_posix()}: damaged or not a shard of records: {error}") from None
        found.update(zip(table["source"].to_pylist(), table["id"].to_pylist(), strict=True))
    return found


def _writer(folder: Path, shard: int) -> pq.ParquetWriter:
    """A checksum a page, so that a flipped bit is an error and no other text."""
    return pq.ParquetWriter(folder / f"{shard:05}.parquet", SCHEMA, compression="zstd", write_page_checksum=True)


def _table(rows: list[Record]) -> pa.Table:
    columns = {
        "id": [r.id for r in rows],
        "media_type": [r.media_type for r in rows],
        "source": [r.source for r in rows],
        "body": [r.body for r in rows],
        "facts": [json.dumps(dict(r.facts), sort_keys=True, ensure_ascii=False) for r in rows],
    }
    return pa.table(columns, schema=SCHEMA)
