"""Read the responses of WARC files; continue after a damaged record."""

import io
import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord

from provenlm.core.records import FetchResult, Record
from provenlm.scraping.crawl.urls import normalize_url
from provenlm.scraping.extraction.extractor import Extractor, outcome_of
from provenlm.scraping.sources.tables import expand_globs

GZIP_MAGIC, WARC_MAGIC = b"\x1f\x8b\x08", b"WARC/1."
MAX_HEADER_BYTES = 1 << 16  # of one record
CHUNK_BYTES = 1 << 16
PARSE_ERRORS = (ArchiveLoadFailed, zlib.error, EOFError, ValueError, KeyError, AttributeError, OSError)


@dataclass(frozen=True)
class WarcSource:
    """Configure the responses of WARC files as a source.

    The files are compressed per record or uncompressed.
    """

    kind: Literal["warc"]
    files: tuple[str, ...]  # paths or glob patterns
    license: str | None = None  # null: from the metadata of the pages


def fetch_warc(source: WarcSource, extractor: Extractor, max_bytes: int) -> Iterator[FetchResult]:
    """Yield the result of every response, file by file.

    `max_bytes` limits the decoded bytes of a page.
    """
    for name in expand_globs(source.files):
        with Path(name).open("rb") as file:
            if Path(name).stat().st_size == 0:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for offset, raw in iter_warc_records(data, max_bytes + MAX_HEADER_BYTES):
                    yield from _record_results(f"{name}:{offset}", raw, name, source, extractor, max_bytes)


def iter_warc_records(data: mmap.mmap | bytes, max_bytes: int) -> Iterator[tuple[int, bytes | str]]:
    """Yield the offset of each record and its decompressed bytes, or a reason.

    The reasons are damaged and too-large.
    """
    offset = 0
    while offset < len(data):
        if data[offset : offset + 3] == GZIP_MAGIC:
            raw, end = _read_gzip_record(data, offset, max_bytes)
        elif data[offset : offset + 7] == WARC_MAGIC:
            raw, end = _read_plain_record(data, offset, max_bytes)
        else:
            raw, end = "damaged", 0
        yield offset, raw
        offset = end or _next_record(data, offset + 1)


def _next_record(data: mmap.mmap | bytes, start: int) -> int:
    """Return the offset, from `start` on, at which a record begins.

    Judged by its first bytes.
    """
    while start < len(data):
        candidates = [position for position in (data.find(GZIP_MAGIC, start), data.find(WARC_MAGIC, start)) if position >= 0]
        if not candidates:
            return len(data)
        start = min(candidates)
        head = _read_gzip_record(data, start, 16)[0] if data[start : start + 3] == GZIP_MAGIC else WARC_MAGIC
        if head == "too-large" or (isinstance(head, bytes) and head.startswith(WARC_MAGIC)):
            return start
        start += 1
    return len(data)


def _read_gzip_record(data: mmap.mmap | bytes, offset: int, max_bytes: int) -> tuple[bytes | str, int]:
    """Decompress one gzip member; return it and the offset of its end.

    At most `max_bytes` are held. The offset is 0 if the end is unknown.
    """
    unpacker, content, size = zlib.decompressobj(31), bytearray(), 0
    position = offset
    try:
        while not unpacker.eof and position < len(data):
            chunk = data[position : position + CHUNK_BYTES]
            position += len(chunk)
            while chunk and not unpacker.eof:
                chunk_content = unpacker.decompress(chunk, CHUNK_BYTES)
                chunk = unpacker.unconsumed_tail
                size += len(chunk_content)
                content += chunk_content if size <= max_bytes else b""
                if size > max_bytes and max_bytes < CHUNK_BYTES:  # called for the first bytes only
                    return "too-large" if chunk_content.startswith(WARC_MAGIC) else "damaged", 0
    except zlib.error:
        return "damaged", 0
    if not unpacker.eof:
        return "damaged", 0
    return ("too-large" if size > max_bytes else bytes(content)), position - len(unpacker.unused_data)


def _read_plain_record(data: mmap.mmap | bytes, offset: int, max_bytes: int) -> tuple[bytes | str, int]:
    """Read one uncompressed record; return it and the offset of its end.

    The end follows from its Content-Length.
    """
    head = data[offset : offset + MAX_HEADER_BYTES].partition(b"\r\n\r\n")[0]
    lengths = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    if len(lengths) != 1 or not lengths[0].isdigit():
        return "damaged", 0
    end = offset + len(head) + 4 + int(lengths[0])
    if data[end : end + 4] != b"\r\n\r\n":
        return "damaged", 0
    return ("too-large" if end - offset > max_bytes else bytes(data[offset : end + 4])), end + 4


def _record_results(
    location: str, raw: bytes | str, site: str, source: WarcSource, extractor: Extractor, max_bytes: int
) -> Iterator[FetchResult]:
    """Yield the results of one raw record; none if it is no response."""
    if isinstance(raw, str):
        yield FetchResult(location, "failed" if raw == "damaged" else "skipped", raw, None, 0, 0, 0.0, None)
        return
    try:
        records = [
            _parse_response(record, max_bytes) for record in ArchiveIterator(io.BytesIO(raw)) if record.rec_type == "response"
        ]
    except PARSE_ERRORS:
        yield FetchResult(location, "failed", "damaged", None, 0, 0, 0.0, None)
        return
    for url, status, content_type, date, body in records:
        yield _page_result(location, url, status, content_type, date, body, site, source, extractor, max_bytes)


def _parse_response(record: ArcWarcRecord, max_bytes: int) -> tuple[str, int, str, str, bytes]:
    http = record.http_headers
    body = record.content_stream().read(max_bytes + 1)
    url = record.rec_headers.get_header("WARC-Target-URI").strip("<>")
    return (
        url,
        int(http.get_statuscode()),
        http.get_header("Content-Type") or "",
        record.rec_headers.get_header("WARC-Date") or "",
        body,
    )


def _page_result(
    location: str,
    url: str,
    status: int,
    content_type: str,
    date: str,
    body: bytes,
    site: str,
    source: WarcSource,
    extractor: Extractor,
    max_bytes: int,
) -> FetchResult:
    normalized_url = normalize_url(url)
    media_type = content_type.partition(";")[0].strip().lower()
    if normalized_url is None or status != 200:
        return FetchResult(
            normalized_url or location,
            "failed" if normalized_url else "skipped",
            f"http-{status}" if normalized_url else "bad-url",
            status,
            0,
            0,
            0.0,
            None,
        )
    if len(body) > max_bytes or media_type not in extractor.media_types:
        return FetchResult(
            normalized_url, "skipped", "too-large" if len(body) > max_bytes else "content-type", status, len(body), 0, 0.0, None
        )
    document = extractor.extract(body, content_type, normalized_url)
    state, reason = outcome_of(document)
    if state != "record":
        return FetchResult(normalized_url, "failed" if state == "failed" else "skipped", reason, status, len(body), 0, 0.0, None)
    metadata = {"site": site, **({"license": source.license} if source.license else {}), **document.metadata}
    fetched_at = date or datetime.now(UTC).isoformat(timespec="seconds")
    return FetchResult(
        normalized_url,
        "record",
        "",
        status,
        len(body),
        0,
        0.0,
        Record.from_content(document.content, document.media_type, normalized_url, **metadata),
        fetched_at,
    )
