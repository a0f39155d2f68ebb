"""Read the rows of JSONL, JSON, CSV, TSV and Parquet files as items."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Literal

from provenlm.core import hashing
from provenlm.core.errors import ConfigError
from provenlm.core.progress import log_line
from provenlm.scraping.sources.files import expand_files, printable
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem, check_sample, limit_items
from provenlm.scraping.sources.rows import Row, TableKind, read_rows

TEXT, JSON, BINARY = "text/plain; charset=utf-8", "application/json", "application/octet-stream"
FORMAT_MEDIA_TYPES = {"text": TEXT, "markdown": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8"}
PLACEHOLDER = re.compile(r"\{([^{}\s]+)\}")
MESSAGE_COLUMNS = {"role": "from", "content": "value"}  # names of the ShareGPT format


@dataclass(frozen=True)
class TableSource:
    """Configure the rows of tables as a source.

    JSONL may also be a JSON array. Text files may be compressed (gzip, Zstandard, bzip2, xz). Columns are dotted paths, such as `data.text`. The content of a row is
    text (`text/plain; charset=utf-8`), bytes (`application/octet-stream`) or an object or list, which is written as JSON
    (`application/json`).
    """

    kind: TableKind
    files: tuple[str, ...]  # paths, glob patterns, or fsspec addresses such as s3://BUCKET/*.jsonl.gz
    content: str | None = "text"  # column with the content; null: the whole row
    source: str | None = None  # column with the source of a row; null: file name and row number
    metadata: tuple[str, ...] = ()  # columns to copy into the metadata: title, license, date, lang …; a row may lack them
    license: str | None = None  # of rows without a license
    rename: Mapping[str, str] = field(default_factory=dict)  # metadata column to its name in the record: {licence: license}
    content_format: Literal["text", "markdown", "html"] = "text"  # of a text column; html is extracted like a web page
    template: str | None = None  # "{role}: {content}\n" for each message if the content is a list; else filled with the row
    limit: int | None = None  # items to read, for a trial run; null: all
    sample_frac: float = 1.0  # fraction of the items to keep, chosen by a hash of their source

    def __post_init__(self) -> None:
        if self.template is not None and not PLACEHOLDER.search(self.template):
            raise ValueError(f"template must name a column in braces, such as {{content}}, got {self.template!r}")
        if unknown := [column for column in self.rename if column not in self.metadata]:
            raise ValueError(f"rename must name columns of metadata: {', '.join(self.metadata) or 'none'}; got {unknown[0]!r}")
        check_sample(self.limit, self.sample_frac)


def read_table(source: TableSource, max_bytes: int) -> Iterator[SourceItem | DroppedItem]:
    """Yield every row, file by file.

    `max_bytes` limits the content and a row of JSON. Rows that share a source but not their content are kept: `url`, `url#2` …
    Raises ConfigError if a pattern matches no file, or no row has the column of the content or of the source.
    """
    yield from limit_items(_read_rows(source, max_bytes), source.limit, source.sample_frac)


def _read_rows(source: TableSource, max_bytes: int) -> Iterator[SourceItem | DroppedItem]:
    required = {key: column for key in ("content", "source") if (column := getattr(source, key))}
    columns = tuple(dict.fromkeys((*required.values(), *source.metadata))) if source.content else ()
    present, known_columns, num_rows = Counter[str](), dict[str, None](), 0
    sources: dict[str, set[str]] = {}
    notes: list[str] = []
    for name in expand_files(source.files):
        num_lacking, lacking_columns = 0, dict[str, None]()
        for row in read_rows(name, source.kind, columns, max_bytes):
            if isinstance(row.values, Mapping):
                num_rows += 1
                present.update(column for column in (*required.values(), *source.metadata) if has_column(row.values, column))
                known_columns.update(dict.fromkeys(row.values))
                if source.content and not has_column(row.values, source.content):
                    num_lacking += 1
                    lacking_columns.update(dict.fromkeys(row.values))
            item = _read_row(row, printable(name), source, max_bytes)
            yield _with_own_source(item, sources) if isinstance(item, SourceItem) and source.source else item
        if num_lacking:
            names = _list(lacking_columns)
            notes.append(f"{printable(name)}: {num_lacking} rows have no column {source.content!r}; they have: {names}")
    for key, column in required.items():
        if num_rows and not present[column]:
            raise ConfigError(f"{key}: none of {num_rows} rows has column {column!r}; must be one of: {_list(known_columns)}")
    for column in source.metadata:
        if num_rows and not present[column]:
            notes.append(f"metadata: none of {num_rows} rows has column {column!r}; they have: {_list(known_columns)}")
    for note in notes:
        log_line(note)


def _list(names: Mapping[str, None]) -> str:
    return ", ".join(map(printable, list(names)[:20])) + (" …" if len(names) > 20 else "")


def get_column(row: Any, path: str) -> Any:
    """Return the value at a dotted path; None if there is none.

    A name that itself contains dots has precedence.
    """
    if isinstance(row, Mapping) and path in row:
        return row[path]
    first, _, rest = path.partition(".")
    if isinstance(row, Mapping):
        return get_column(row.get(first), rest) if rest else None
    if isinstance(row, list) and first.isdigit() and int(first) < len(row):
        return get_column(row[int(first)], rest) if rest else row[int(first)]
    return None


def has_column(row: Mapping[str, Any], path: str) -> bool:
    """Tell whether a row has a column, which may be null."""
    return path in row or get_column(row, path) is not None


def _read_row(row: Row, site: str, source: TableSource, max_bytes: int) -> SourceItem | DroppedItem:
    """Turn one row, or the reason why it was skipped, into an item."""
    if isinstance(row.values, str):
        return DroppedItem(row.url, DropReason(row.values, failed=row.values != "too-large"), row.size)
    content, media_type = _encode(_content_of(row.values, source), source.content_format)
    if content is None or len(content) > max_bytes:
        return DroppedItem(row.url, DropReason("no-content" if content is None else "too-large"), row.size)
    row_source = get_column(row.values, source.source) if source.source else None
    is_name = isinstance(row_source, str | int) and not isinstance(row_source, bool) and row_source != ""
    values = {column: _to_metadata(get_column(row.values, column)) for column in source.metadata}
    fields = {source.rename.get(key, key.rpartition(".")[2]): value for key, value in values.items() if value is not None}
    metadata = {"site": site, **({"license": source.license} if source.license else {}), **fields}
    return SourceItem(printable(str(row_source)) if is_name else row.url, content, media_type, metadata, row.size)


def _with_own_source(item: SourceItem, sources: dict[str, set[str]]) -> SourceItem:
    """Name a row whose source occurred before with another content `url#2`, `url#3` …"""
    digest = hashing.sha256_bytes(item.content)[:16]
    digests = sources.setdefault(item.url, set())
    if not digests or digest in digests:
        digests.add(digest)
        return item
    digests.add(digest)
    number = len(digests)
    while (url := f"{item.url}#{number}") in sources:
        number += 1
    sources[url] = {digest}
    return SourceItem(url, item.content, item.media_type, item.metadata, item.size)


def _content_of(row: Mapping[str, Any], source: TableSource) -> object:
    value = get_column(row, source.content) if source.content else row
    if source.template is None or value is None:
        return value
    if isinstance(value, list):
        messages = [_fill(source.template, _as_message(message)) for message in value]
        return "".join(message for message in messages if message is not None) if messages and None not in messages else None
    return _fill(source.template, value if isinstance(value, Mapping) else row)


def _as_message(message: object) -> Mapping[str, Any]:
    """Return a chat message with `role` and `content`; the text parts of its content are joined."""
    if not isinstance(message, Mapping):
        return {}
    keys = {name: name if name in message else alias for name, alias in MESSAGE_COLUMNS.items()}
    values = {name: message[key] or "" for name, key in keys.items() if key in message}
    parts = values.get("content")
    if isinstance(parts, list):
        values["content"] = "".join(str(part.get("text", "")) if isinstance(part, Mapping) else str(part) for part in parts)
    return {**message, **values}


def _fill(template: str, values: Mapping[str, Any]) -> str | None:
    """Fill the columns in braces into a template; None if one is missing."""
    cells = {path: _to_metadata(get_column(values, path), empty="") for path in PLACEHOLDER.findall(template)}
    if None in cells.values():
        return None
    return PLACEHOLDER.sub(lambda match: cell if isinstance(cell := cells[match[1]], str) else json.dumps(cell), template)


def _encode(value: object, content_format: str) -> tuple[bytes | None, str]:
    """Return the bytes and the media type of a value.

    None for a missing value or a bare number.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace"), FORMAT_MEDIA_TYPES[content_format]
    if isinstance(value, bytes):
        return value, BINARY if content_format == "text" else FORMAT_MEDIA_TYPES[content_format].partition(";")[0]
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=_to_text).encode("utf-8", "replace"), JSON
    return None, ""


def _to_text(value: object) -> str:
    """Return the JSON form of a date, or of bytes in Base64 (RFC 4648)."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _to_metadata(value: object, empty: str | None = None) -> Any:
    """Return the JSON form of a cell: a date in ISO 8601, bytes as text; `empty` for an empty text, None for a missing value."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return _to_text(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() or empty
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping | Sequence):
        return json.loads(json.dumps(value, ensure_ascii=False, default=_to_text).encode("utf-8", "replace"))
    return value if value is None or isinstance(value, int | float) else str(value)
