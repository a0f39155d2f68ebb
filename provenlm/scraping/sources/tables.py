"""Read the rows of JSONL and Parquet files."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core.errors import ConfigError
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem

BATCH_ROWS = 256  # rows per Parquet batch
TEXT, JSON, BINARY = "text/plain; charset=utf-8", "application/json", "application/octet-stream"


@dataclass(frozen=True)
class TableSource:
    """Configure the rows of JSONL (also `.gz`) or Parquet files as a source.

    The content of a row is text (`text/plain; charset=utf-8`), bytes (`application/octet-stream`) or an object or list,
    which is written as JSON (`application/json`).
    """

    kind: Literal["jsonl", "parquet"]
    files: tuple[str, ...]  # paths or glob patterns
    content: str | None = "text"  # column with the content; null: the whole row as JSON
    source: str | None = None  # column with the source of a row; null: file name and row number
    metadata: tuple[str, ...] = ()  # columns to copy into the metadata: title, license, date, lang …
    license: str | None = None  # of rows without a license


def read_table(source: TableSource, max_bytes: int) -> Iterator[SourceItem | DroppedItem]:
    """Yield every row, file by file.

    `max_bytes` limits the content and a line of JSONL. Raises ConfigError if a pattern matches no file or a column does not
    exist.
    """
    for name in expand_globs(source.files):
        for url, row, size in _read_lines(name, max_bytes) if source.kind == "jsonl" else _read_rows(name, source):
            yield _read_row(url, row, size, name, source, max_bytes)


def expand_globs(patterns: tuple[str, ...]) -> list[str]:
    """Return the matching files, sorted, without duplicates.

    Raises ConfigError for a pattern without a match.
    """
    matches = {pattern: [name for name in glob(pattern, recursive=True) if Path(name).is_file()] for pattern in patterns}  # noqa: PTH207 (Path.glob supports no absolute pattern)
    for pattern, names in matches.items():
        if not names:
            raise ConfigError(f"files must match at least one file, got {pattern!r}")
    return sorted({name for names in matches.values() for name in names})


def _read_row(
    url: str, row: Mapping[str, Any] | str, size: int, site: str, source: TableSource, max_bytes: int
) -> SourceItem | DroppedItem:
    """Turn one row, or the reason why it was skipped, into an item."""
    if isinstance(row, str):
        return DroppedItem(url, DropReason(row, failed=row != "too-large"), size)
    content, media_type = _encode(row if source.content is None else row.get(source.content))
    if content is None or len(content) > max_bytes:
        return DroppedItem(url, DropReason("no-content" if content is None else "too-large"), size)
    row_source = row.get(source.source) if source.source else None
    fields = {key: row[key] for key in source.metadata if isinstance(row.get(key), str | int | float) and row[key] != ""}
    metadata = {"site": site, **({"license": source.license} if source.license else {}), **fields}
    return SourceItem(row_source if isinstance(row_source, str) and row_source else url, content, media_type, metadata, size)


def _encode(value: object) -> tuple[bytes | None, str]:
    """Return the bytes and the media type of a value.

    None for a missing value or a bare number.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace"), TEXT
    if isinstance(value, bytes):
        return value, BINARY
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=_to_text).encode("utf-8", "replace"), JSON
    return None, ""


def _to_text(value: object) -> str:
    """Return the JSON form of a date, or of bytes in Base64 (RFC 4648)."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _read_lines(name: str, max_bytes: int) -> Iterator[tuple[str, Mapping[str, Any] | str, int]]:
    """Yield each line with its object, or the reason for skipping it.

    At most `max_bytes` of a line are held in memory.
    """
    number = 0
    try:
        with cast(BinaryIO, gzip.open(name) if name.endswith(".gz") else open(name, "rb")) as file:  # noqa: PTH123
            while line := file.readline(max_bytes + 1):
                number += 1
                size = len(line)
                while len(line) > max_bytes and not line.endswith(b"\n") and (line := file.readline(max_bytes + 1)):
                    size += len(line)
                if size > max_bytes + 1 or (size > max_bytes and not line.endswith(b"\n")):
                    yield f"{name}:{number}", "too-large", size
                elif line.strip():
                    yield f"{name}:{number}", _parse_object(line), size
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield f"{name}:{number + 1}", "damaged", 0


def _parse_object(line: bytes) -> Mapping[str, Any] | str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "json"
    return value if isinstance(value, dict) else "json"


def _read_rows(name: str, source: TableSource) -> Iterator[tuple[str, Mapping[str, Any] | str, int]]:
    """Yield each row; a damaged file ends with the reason `damaged`."""
    number = 0
    try:
        with pq.ParquetFile(name) as file:
            columns = [*([source.content] if source.content else []), *([source.source] if source.source else []), *source.metadata]
            missing = [column for column in columns if column not in file.schema_arrow.names]
            if missing:
                raise ConfigError(f"{name}: no column {missing[0]!r}; must be one of: {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(BATCH_ROWS, columns=columns if source.content else None):
                for row in batch.to_pylist():
                    number += 1
                    content = row[source.content] if source.content else None
                    yield f"{name}:{number}", row, len(content) if isinstance(content, str | bytes) else 0
    except (pa.ArrowException, OSError):
        yield f"{name}:{number + 1}", "damaged", 0
