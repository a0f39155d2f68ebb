"""Iterate over the rows of JSONL, JSON, CSV, TSV and Parquet files."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core.progress import log_line
from provenlm.scraping.sources import files

BATCH_ROWS = 256  # rows per Parquet batch
CHUNK_CHARS = 1 << 16
DELIMITERS = ",;\t|"
TableKind = Literal["jsonl", "parquet", "csv", "tsv"]
FORMAT_NAMES = {"jsonl": "JSONL", "parquet": "Parquet", "csv": "CSV", "tsv": "TSV"}


class Row(NamedTuple):
    """Hold one row of a file, or the reason why it cannot be read."""

    url: str  # FILE:NUMBER
    values: Mapping[str, Any] | str
    size: int  # bytes or characters read


def read_rows(name: str, kind: TableKind, columns: tuple[str, ...], max_bytes: int) -> Iterator[Row]:
    """Yield each row of a file; `columns` are dotted paths, empty for all columns.

    A file of another format gives one row with the reason `format`; a damaged file ends with the reason `damaged`.
    """
    label, number = files.printable(name), 0
    rows = {"jsonl": _read_json, "parquet": _read_parquet}.get(kind, _read_csv)
    try:
        if format_name := _other_format(name, kind):
            hint = f"; set kind: {format_name.lower()}" if format_name.lower() in FORMAT_NAMES else ""
            log_line(f"{label}: starts like {format_name}, must be {FORMAT_NAMES[kind]}{hint}")
            yield Row(label, "format", 0)
            return
        for values, size in rows(name, kind, columns, max_bytes):
            number += 1
            if values is not None:
                yield Row(f"{label}:{number}", values, size)
    except (pa.ArrowException, *files.READ_ERRORS) as error:
        reason = "no-access" if isinstance(error, PermissionError) else "damaged"
        log_line(f"{label}: {reason}: reading ended after {number} rows: {error}")
        yield Row(f"{label}:{number + 1}", reason, 0)


Values = tuple[Mapping[str, Any] | str | None, int]  # None: a blank line, which counts but is no row


def _other_format(name: str, kind: str) -> str:
    """Name the format of a file that is not of `kind`; "" if it may be."""
    with files.open_file(name) as file:
        head = file.read(files.PROBE_BYTES)
    format_name = files.identify_format(head)
    if kind != "parquet" and format_name in files.COMPRESSION_MAGICS.values():
        with files.open_decompressed(name) as stream:
            format_name = files.identify_format(stream.peek(files.PROBE_BYTES)[: files.PROBE_BYTES])
    if kind == "parquet":
        return (
            ""
            if format_name == "Parquet" or not head
            else format_name or ("JSONL" if head.lstrip()[:1] in (b"{", b"[") else "text")
        )
    return "" if format_name == "binary" else format_name  # one zero byte is a fault of its row


def _read_json(name: str, kind: str, columns: tuple[str, ...], max_bytes: int) -> Iterator[Values]:
    """Read a line of JSONL at a time, or the elements of a JSON array or of indented JSON."""
    with files.open_decompressed(name) as stream:
        first = stream.readline(max_bytes + 1)
        start = first.removeprefix(codecs.BOM_UTF8).strip()
        if start[:1] == b"[" and _parse_json(first) != "json":  # the whole array, or a line that is a list
            second = stream.readline(max_bytes + 1)
            values = _read_lines(first + second, stream, max_bytes) if second.strip() else _read_values(first, stream, max_bytes)
        elif start[:1] == b"[" or start == b"{":
            values = _read_values(first, stream, max_bytes)
        else:
            values = _read_lines(first, stream, max_bytes)
        yield from values


def _parse_json(line: bytes) -> Any:
    """Return the value of a line; the reason `json` if it has none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "json"
    return "json" if isinstance(value, str) else value


def _read_lines(first: bytes, stream: io.BufferedReader, max_bytes: int) -> Iterator[Values]:
    """Read lines; at most `max_bytes` of a line are held in memory. `first` holds bytes that were read."""
    lines = io.BytesIO(first)

    def readline() -> bytes:
        line = lines.readline(max_bytes + 1)
        return line if line.endswith(b"\n") or len(line) > max_bytes else line + stream.readline(max_bytes + 1 - len(line))

    while line := readline():
        size = len(line)
        while len(line) > max_bytes and not line.endswith(b"\n") and (line := readline()):
            size += len(line)
        if size > max_bytes + 1 or (size > max_bytes and not line.endswith(b"\n")):
            yield "too-large", size
        else:
            value = _parse_json(line) if line.strip() else None
            yield value if value is None and not line.strip() else value if isinstance(value, Mapping) else "json", size


def _read_values(head: bytes, stream: io.BufferedReader, max_bytes: int) -> Iterator[Values]:
    """Read the elements of an array, or values one after the other.

    Reading cannot go on behind an element that is no JSON or is longer than `max_bytes`.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    parse = json.JSONDecoder().raw_decode
    text, position, at_end = decode(head), 0, False
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position == 0 and text[:1] == "[":
            position = 1
            continue
        if text[position : position + 1] == "]":
            if (text[position + 1 :] + decode(stream.read(CHUNK_CHARS))).strip():
                yield "json", 0  # something follows the array
            return
        try:
            value, end = parse(text, position)
        except (ValueError, RecursionError):
            if not at_end and len(text) - position <= max_bytes:
                chunk = stream.read(max(CHUNK_CHARS, len(text) - position))
                text, position, at_end = text[position:] + decode(chunk, not chunk), 0, not chunk
                text = " " + text if text[:1] == "[" else text  # an element that is a list opens no array
                continue
            if text[position:].strip():
                yield "json" if at_end else "too-large", len(text) - position
                if not at_end:
                    raise EOFError("an element of the array is too large") from None
            return
        is_utf8 = _is_utf8(text[position:end])
        size, position = end - position, end
        yield value if isinstance(value, Mapping) and is_utf8 else "json", size


def _read_csv(name: str, kind: str, columns: tuple[str, ...], max_bytes: int) -> Iterator[Values]:
    """Read rows below a header; the delimiter of CSV is the one that gives the columns."""
    csv.field_size_limit(max(max_bytes, csv.field_size_limit()))
    with files.open_decompressed(name) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        header_line = text.readline()
        delimiters = "\t" if kind == "tsv" else DELIMITERS
        headers = {delimiter: next(csv.reader([header_line], delimiter=delimiter), []) for delimiter in delimiters}
        by_columns = (delimiter for delimiter in delimiters if columns and columns[0] in headers[delimiter])
        delimiter = next(by_columns, max(delimiters, key=header_line.count))
        header, reader = headers[delimiter], csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error:
                yield "csv", 0
                continue
            if cells is None:
                return
            size = sum(map(len, cells))
            if not cells:
                yield None, 0
            elif len(cells) > len(header):
                yield "columns", size
            else:
                yield dict(zip(header, cells, strict=False)) if _is_utf8("".join(cells)) else "encoding", size


def _is_utf8(text: str) -> bool:
    """Tell whether a text has no bytes that were decoded with `surrogateescape`."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _read_parquet(name: str, kind: str, columns: tuple[str, ...], max_bytes: int) -> Iterator[Values]:
    """Read rows; a cell that is no UTF-8 gives its row the reason `encoding`."""
    with files.open_file(name) as file, pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        tops = dict.fromkeys(column if column in names else column.split(".")[0] for column in columns)
        top_columns = [column for column in tops if column in names]
        if columns and not top_columns:  # no cell is needed to say which columns there are
            yield from ((dict.fromkeys(names), 0) for _ in range(parquet.metadata.num_rows))
            return
        all_columns = dict.fromkeys(names)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=top_columns or None):
            for row in _rows_of(batch):
                yield row if isinstance(row, str) else {**all_columns, **row}, _size_of(row)


def _rows_of(batch: pa.RecordBatch) -> Iterator[Mapping[str, Any] | str]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield from batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError:
                yield "encoding"


def _size_of(row: Mapping[str, Any] | str) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str | bytes)) if isinstance(row, Mapping) else 0
