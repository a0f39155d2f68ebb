"""Read the rows of JSONL and Parquet files."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core.errors import ConfigError
from provenlm.core.records import FetchResult, Record

BATCH_ROWS = 256  # rows per Parquet batch


@dataclass(frozen=True)
class TableSource:
    """Rows of JSONL files (also `.gz`) or of Parquet files."""

    kind: Literal["jsonl", "parquet"]
    files: tuple[str, ...]  # paths or glob patterns
    text: str  # column with the text
    source: str | None  # column with the source of a row; null: file name and row number
    metadata: tuple[str, ...]  # columns to copy into the metadata: title, license, date, lang …
    license: str | None  # of rows without a license


def fetch_table(source: TableSource, max_bytes: int) -> Iterator[FetchResult]:
    """Yield the result of every row, file by file.

    `max_bytes` limits a text and a line of JSONL. Raises ConfigError if a pattern matches no file or a column does not
    exist.
    """
    for name in expand_globs(source.files):
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        for url, row, size in _read_lines(name, max_bytes) if source.kind == "jsonl" else _read_rows(name, source):
            yield _row_result(url, row, size, name, source, max_bytes, fetched_at)


def expand_globs(patterns: tuple[str, ...]) -> list[str]:
    """Return the matching files, sorted, without duplicates.

    Raises ConfigError for a pattern without a match.
    """
    matches = {pattern: [name for name in glob(pattern, recursive=True) if Path(name).is_file()] for pattern in patterns}  # noqa: PTH207 (Path.glob supports no absolute pattern)
    for pattern, names in matches.items():
        if not names:
            raise ConfigError(f"files must match at least one file, got {pattern!r}")
    return sorted({name for names in matches.values() for name in names})


def _row_result(
    url: str, row: Mapping[str, Any] | str, size: int, site: str, source: TableSource, max_bytes: int, fetched_at: str
) -> FetchResult:
    """Return the result of one row, which may be the reason why it was skipped."""
    if isinstance(row, str):
        return FetchResult(url, "skipped" if row == "too-large" else "failed", row, None, size, 0, 0.0, None)
    text, row_source = row.get(source.text), row.get(source.source) if source.source else None
    reason = "no-text" if not isinstance(text, str) else "" if text.strip() else "empty"
    body = text.encode("utf-8", "replace") if isinstance(text, str) else b""
    if reason or len(body) > max_bytes:
        return FetchResult(url, "skipped", reason or "too-large", None, size, 0, 0.0, None)
    fields = {key: row[key] for key in source.metadata if isinstance(row.get(key), str | int | float) and row[key] != ""}
    metadata = {"site": site, **({"license": source.license} if source.license else {}), **fields}
    source_url = row_source if isinstance(row_source, str) and row_source else url
    return FetchResult(
        source_url, "record", "", None, size, 0, 0.0, Record.from_content(body, "text/plain", source_url, **metadata), fetched_at
    )


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
            columns = [source.text, *([source.source] if source.source else []), *source.metadata]
            missing = [column for column in columns if column not in file.schema_arrow.names]
            if missing:
                raise ConfigError(f"{name}: no column {missing[0]!r}; must be one of: {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    text = row[source.text]
                    yield f"{name}:{number}", row, len(text) if isinstance(text, str | bytes) else 0
    except (pa.ArrowException, OSError):
        yield f"{name}:{number + 1}", "damaged", 0
