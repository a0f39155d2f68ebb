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

from provenlm.core.errors import UserError
from provenlm.core.records import Fetch, Record

ROWS = 256  # read at once of a Parquet file


@dataclass(frozen=True)
class Table:
    """Rows of JSONL files (`.gz` too) or of Parquet files."""

    kind: Literal["jsonl", "parquet"]
    files: tuple[str, ...]  # paths or patterns
    text: str  # the column that becomes the body
    source: str | None  # the column that says where a row comes from; null: the file and the row's number
    facts: tuple[str, ...]  # columns to carry over as they are named: title, licence, date, lang …
    licence: str | None  # of rows that do not carry one


def fetch(source: Table, limit: int) -> Iterator[Fetch]:
    """Every row, file by file. `limit`: bytes of a text, and of a line of JSONL. UserError where no file matches or no column is so named."""
    for name in matching(source.files):
        came = datetime.now(UTC).isoformat(timespec="seconds")
        for url, row, size in _lines(name, limit) if source.kind == "jsonl" else _rows(name, source):
            yield _judged(url, row, size, name, source, limit, came)


def matching(patterns: tuple[str, ...]) -> list[str]:
    """The files that match, sorted, each once. UserError for a pattern that matches none."""
    found = {pattern: [name for name in glob(pattern, recursive=True) if Path(name).is_file()] for pattern in patterns}  # noqa: PTH207 (Path.glob knows no absolute pattern)
    for pattern, names in found.items():
        if not names:
            raise UserError(f"files: nothing matches {pattern!r}")
    return sorted({name for names in found.values() for name in names})


def _judged(url: str, row: Mapping[str, Any] | str, size: int, site: str, source: Table, limit: int, came: str) -> Fetch:
    """`row`, or the reason why there is none."""
    if isinstance(row, str):
        return Fetch(url, "refused" if row == "too-large" else "failed", row, None, size, 0, 0.0, None)
    text, named = row.get(source.text), row.get(source.source) if source.source else None
    reason = "no-text" if not isinstance(text, str) else "" if text.strip() else "empty"
    body = text.encode("utf-8", "replace") if isinstance(text, str) else b""
    if reason or len(body) > limit:
        return Fetch(url, "refused", reason or "too-large", None, size, 0, 0.0, None)
    facts = {key: row[key] for key in source.facts if isinstance(row.get(key), str | int | float) and row[key] != ""}
    said = {"site": site, **({"licence": source.licence} if source.licence else {}), **facts}
    place = named if isinstance(named, str) and named else url
    return Fetch(place, "record", "", None, size, 0, 0.0, Record.of(body, "text/plain", place, **said), came)


def _lines(name: str, limit: int) -> Iterator[tuple[str, Mapping[str, Any] | str, int]]:
    """Each line with its object, or the reason why it has none. At most `limit` bytes of a line are held."""
    number = 0
    try:
        with cast(BinaryIO, gzip.open(name) if name.endswith(".gz") else open(name, "rb")) as file:  # noqa: PTH123
            while line := file.readline(limit + 1):
                number += 1
                size = len(line)
                while len(line) > limit and not line.endswith(b"\n") and (line := file.readline(limit + 1)):
                    size += len(line)
                if size > limit + 1 or (size > limit and not line.endswith(b"\n")):
                    yield f"{name}:{number}", "too-large", size
                elif line.strip():
                    yield f"{name}:{number}", _object(line), size
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield f"{name}:{number + 1}", "damaged", 0


def _object(line: bytes) -> Mapping[str, Any] | str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return "json"
    return found if isinstance(found, dict) else "json"


def _rows(name: str, source: Table) -> Iterator[tuple[str, Mapping[str, Any] | str, int]]:
    """Each row; where the file is damaged, what comes before that and then the file itself with its reason."""
    number = 0
    try:
        with pq.ParquetFile(name) as file:
            columns = [source.text, *([source.source] if source.source else []), *source.facts]
            missing = [column for column in columns if column not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{name} has no column {missing[0]!r}; it has: {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    text = row[source.text]
                    yield f"{name}:{number}", row, len(text) if isinstance(text, str | bytes) else 0
    except (pa.ArrowException, OSError):
        yield f"{name}:{number + 1}", "damaged", 0
