"""JSONL and Parquet files in, what became of each row out."""

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

from provenlm.core.errors import ProvenlmError
from provenlm.core.records import FetchResult, Record

BATCH_ROWS = 256  # read at once of a Parquet file


@dataclass(frozen=True)
class TableSource:
    """Rows of JSONL files (`.gz` too) or of Parquet files."""

    kind: Literal["jsonl", "parquet"]
    files: tuple[str, ...]  # paths or patterns
    text: str  # the column that becomes the body
    source: str | None  # the column that says where a row comes from; null: the file and the row's number
    metadata: tuple[str, ...]  # columns to carry over as they are named: title, licence, date, lang …
    license: str | None  # of rows that do not carry one


def fetch_table(source: TableSource, max_bytes: int) -> Iterator[FetchResult]:
    """Every row, file by file. `limit`: bytes of a text, and of a line of JSONL. ProvenlmError where no file matches or no column is so named."""
    for name in expand_globs(source.files):
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        for url, row, size in _read_lines(name, max_bytes) if source.kind == "jsonl" else _read_rows(name, source):
            yield _row_result(url, row, size, name, source, max_bytes, fetched_at)


def expand_globs(patterns: tuple[str, ...]) -> list[str]:
    """The files that match, sorted, each once. ProvenlmError for a pattern that matches none."""
    matches = {pattern: [name for name in glob(pattern, recursive=True) if Path(name).is_file()] for pattern in patterns}  # noqa: PTH207 (Path.glob knows no absolute pattern)
    for pattern, names in matches.items():
        if not names:
            raise ProvenlmError(f"files: nothing matches {pattern!r}")
    return sorted({name for names in matches.values() for name in names})


def _row_result(
    url: str, row: Mapping[str, Any] | str, size: int, site: str, source: TableSource, max_bytes: int, fetched_at: str
) -> FetchResult:
    """`row`, or the reason why there is none."""
    if isinstance(row, str):
        return FetchResult(url, "refused" if row == "too-large" else "failed", row, None, size, 0, 0.0, None)
    text, row_source = row.get(source.text), row.get(source.source) if source.source else None
    reason = "no-text" if not isinstance(text, str) else "" if text.strip() else "empty"
    body = text.encode("utf-8", "replace") if isinstance(text, str) else b""
    if reason or len(body) > max_bytes:
        return FetchResult(url, "refused", reason or "too-large", None, size, 0, 0.0, None)
    fields = {key: row[key] for key in source.metadata if isinstance(row.get(key), str | int | float) and row[key] != ""}
    metadata = {"site": site, **({"licence": source.license} if source.license else {}), **fields}
    source_url = row_source if isinstance(row_source, str) and row_source else url
    return FetchResult(
        source_url, "record", "", None, size, 0, 0.0, Record.from_content(body, "text/plain", source_url, **metadata), fetched_at
    )


def _read_lines(name: str, max_bytes: int) -> Iterator[tuple[str, Mapping[str, Any] | str, int]]:
    """Each line with its object, or the reason why it has none. At most `limit` bytes of a line are held."""
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
    """Each row; where the file is damaged, what comes before that and then the file itself with its reason."""
    number = 0
    try:
        with pq.ParquetFile(name) as file:
            columns = [source.text, *([source.source] if source.source else []), *source.metadata]
            missing = [column for column in columns if column not in file.schema_arrow.names]
            if missing:
                raise ProvenlmError(f"{name} has no column {missing[0]!r}; it has: {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    text = row[source.text]
                    yield f"{name}:{number}", row, len(text) if isinstance(text, str | bytes) else 0
    except (pa.ArrowException, OSError):
        yield f"{name}:{number + 1}", "damaged", 0
