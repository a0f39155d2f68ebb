"""Read the pages of WARC and WET files; continue after a damaged record."""

import io
import mmap
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from fastwarc.stream_io import BrotliReader, ChunkedReader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord

from provenlm.core.records import FetchResult, Record
from provenlm.scraping.crawl.urls import normalize_url
from provenlm.scraping.extraction.extractor import Extractor, outcome_of
from provenlm.scraping.sources import files
from provenlm.scraping.sources.items import check_sample, is_sampled

GZIP_MAGIC, ZSTD_MAGIC, WARC_MAGIC = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/1."
CHUNK_BYTES = 1 << 16
READ_ERRORS = (OSError, EOFError, ValueError, zlib.error)
# Tags with which an HTML page begins, from the MIME Sniffing standard, 7.1.
HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|!--)[\s>-]",
    re.IGNORECASE,
)
BINARY_BYTES = re.compile(rb"[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]")
SNIFFED_BYTES = 1445  # as the MIME Sniffing standard recommends
UNKNOWN_TYPES = ("", "application/octet-stream", "application/unknown", "unknown/unknown", "unk")
PAGE_TYPES = ("response", "resource", "conversion")


@dataclass(frozen=True)
class WarcSource:
    """Configure the pages of WARC files as a source.

    These are responses, resources and conversions (the text of WET files). The files are uncompressed or compressed with gzip or Zstandard.
    """

    kind: Literal["warc"]
    files: tuple[str, ...]  # paths, glob patterns, or fsspec addresses such as s3://BUCKET/*.warc.gz
    license: str | None = None  # null: from the metadata of the pages
    limit: int | None = None  # records to read, for a trial run; null: all
    sample_frac: float = 1.0  # fraction of the records to keep, chosen by a hash of their URL

    def __post_init__(self) -> None:
        check_sample(self.limit, self.sample_frac)


@dataclass(frozen=True, slots=True)
class StoredPage:
    """Hold one page of a WARC file with its decoded body."""

    url: str
    status: int | None  # None for a page that is no HTTP response
    content_type: str
    date: str
    body: bytes


def fetch_warc(source: WarcSource, extractor: Extractor, max_bytes: int) -> Iterator[FetchResult]:
    """Yield the result of every record, file by file.

    `max_bytes` limits the decoded bytes of a page. A record that is no page is skipped with its type: `warc-request` …
    """
    num_records = 0
    for name in files.expand_files(source.files):
        label = files.printable(name)
        for offset, page in read_warc(name, max_bytes):
            result = _page_result(f"{label}:{offset}", page, label, source.license, extractor, max_bytes)
            if result.record is not None and not is_sampled(result.url, source.sample_frac):
                result = replace(result, state="skipped", reason="not-sampled", record=None)
            yield result
            num_records += result.record is not None
            if num_records == source.limit:
                return


def read_warc(name: str, max_bytes: int) -> Iterator[tuple[int, StoredPage | str]]:
    """Yield the offset of each record and its page, or a reason.

    The reasons are damaged, decoding and warc-TYPE. After damage, reading goes on at the next record of a local file; a file at an fsspec address ends there.
    """
    with files.open_file(name) as file:
        if files.REMOTE_ADDRESS.match(name):
            yield from _read_until_damage(file, 0, max_bytes)
        elif Path(name).stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                start = 0
                while start < len(data):
                    last, page = start, None
                    for last, page in _read_until_damage(file, start, max_bytes, data):
                        yield last, page
                    start = _next_record(data, last + 1) if page == "damaged" else len(data)


def _read_until_damage(
    file: BinaryIO, start: int, max_bytes: int, data: mmap.mmap | bytes = b""
) -> Iterator[tuple[int, StoredPage | str]]:
    """Yield records up to the first damage, which is the last item. `data` tells where the damaged record begins."""
    file.seek(start)
    position, last_end = start, start
    try:
        for record in ArchiveIterator(file, parse_http=False):
            position = record.stream_pos
            page = _read_page(record, max_bytes)
            yield position, page
            if page == "damaged":
                return
            last_end = 0
    except READ_ERRORS:
        yield last_end or _record_end(data, position) or position, "damaged"


def _next_record(data: mmap.mmap | bytes, start: int) -> int:
    """Return the offset, from `start` on, at which a record begins.

    Judged by its first bytes.
    """
    for match in re.compile(b"|".join(map(re.escape, (GZIP_MAGIC, ZSTD_MAGIC, WARC_MAGIC)))).finditer(data, start):
        head = bytes(data[match.start() : match.start() + CHUNK_BYTES])
        try:
            if match[0] == GZIP_MAGIC:
                head = zlib.decompressobj(31).decompress(head, 16)
            elif match[0] == ZSTD_MAGIC:
                head = ZstdReader(io.BytesIO(head)).read(16)
        except READ_ERRORS:
            continue
        if head.startswith(WARC_MAGIC):
            return match.start()
    return len(data)


def _record_end(data: mmap.mmap | bytes, offset: int) -> int:
    """Return the end of the record at `offset`, plain or a gzip member; 0 if it is unknown."""
    if data[offset : offset + 3] == GZIP_MAGIC:
        unpacker, position = zlib.decompressobj(31), offset
        while not unpacker.eof and position < len(data):
            chunk = data[position : position + CHUNK_BYTES]
            position += len(chunk)
            while chunk and not unpacker.eof:
                unpacker.decompress(chunk, CHUNK_BYTES)
                chunk = unpacker.unconsumed_tail
        return position - len(unpacker.unused_data)
    head = data[offset : offset + CHUNK_BYTES].partition(b"\r\n\r\n")[0]
    length = re.search(rb"\r\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
    return offset + len(head) + 4 + int(length[1]) + 4 if length and head.startswith(WARC_MAGIC) else 0


def _read_page(record: WarcRecord, max_bytes: int) -> StoredPage | str:
    """Read a record; return a reason instead if it is damaged or no page."""
    record_type = str(record.record_type)
    if record_type not in PAGE_TYPES:
        return f"warc-{record_type}"
    try:
        record.parse_http(auto_decode="none")
        http, length = record.http_headers, record.content_length
        body = record.reader.read(max_bytes + 1)
        if len(body) < min(length, max_bytes + 1):
            return "damaged"
        status = None if http is None else int(http.status_code or 0)
        headers = {} if http is None else {key.lower(): value for key, value in http}
    except (*READ_ERRORS, TypeError):
        return "damaged"
    decoded = _decode_body(body, headers, max_bytes)
    if decoded is None:
        return "decoding"
    default_type = "text/plain; charset=utf-8" if record_type == "conversion" else record.headers.get("Content-Type") or ""
    content_type = default_type if http is None else headers.get("content-type", "")
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    return StoredPage(url, status, content_type, record.headers.get("WARC-Date") or "", decoded)


def _decode_body(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes | None:
    """Undo the transfer and content encodings of a body; None if that is impossible.

    Archives often keep the header of an encoding that they undid: such a body stays as it is.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        try:
            body = ChunkedReader(io.BytesIO(body)).read(max_bytes + 1)
        except OSError as error:
            if "chunk header" not in str(error):
                return None
    for encoding in reversed(headers.get("content-encoding", "").lower().replace(" ", "").split(",")):
        if encoding in ("gzip", "x-gzip", "deflate"):
            decoded = _inflate(body, max_bytes)
        elif encoding in ("br", "zstd"):
            try:
                decoded = (BrotliReader if encoding == "br" else ZstdReader)(io.BytesIO(body)).read(max_bytes + 1)
            except OSError:
                decoded = b""
        else:
            decoded = b"" if encoding not in ("", "identity", "none") else body
        if not decoded and sniff_media_type(body) == "":
            return None
        body = decoded or body
    return body


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """Decompress gzip or deflate, also one that is cut off; empty if the body is neither."""
    for window_bits in (47, -15):  # gzip or zlib, raw deflate
        content, rest, unpacker = b"", body, zlib.decompressobj(window_bits)
        try:
            while rest and len(content) <= max_bytes:
                content += unpacker.decompress(rest, max_bytes + 1 - len(content))
                rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
                unpacker = zlib.decompressobj(window_bits) if unpacker.eof else unpacker
        except zlib.error:
            pass
        if content:
            return content
    return b""


def sniff_media_type(body: bytes) -> str:
    """Return text/html or text/plain by the first bytes of a body.

    Returns "" for binary content. See the MIME Sniffing standard, section 7.
    """
    head = body[:SNIFFED_BYTES]
    if HTML_START.match(head):
        return "text/html"
    return "" if not head or BINARY_BYTES.search(head) or head.startswith(b"%PDF-") else "text/plain"


def _page_result(
    location: str, page: StoredPage | str, site: str, license_id: str | None, extractor: Extractor, max_bytes: int
) -> FetchResult:
    if isinstance(page, str):
        return FetchResult(location, "failed" if page in ("damaged", "decoding") else "skipped", page, None, 0, 0, 0.0, None)
    url = normalize_url(page.url) or (files.printable(page.url) if page.status is None else "")

    def dropped(state: Literal["skipped", "failed"], reason: str) -> FetchResult:
        return FetchResult(url or location, state, reason, page.status, len(page.body), 0, 0.0, None)

    if not url:
        return dropped("skipped", "bad-url")
    if page.status not in (None, 200):
        return dropped("failed", f"http-{page.status}")
    if len(page.body) > max_bytes:
        return dropped("skipped", "too-large")
    media_type = page.content_type.partition(";")[0].strip().lower()
    content_type = sniff_media_type(page.body) if media_type in UNKNOWN_TYPES else page.content_type
    if content_type.partition(";")[0].strip().lower() not in extractor.media_types:
        return dropped("skipped", "content-type")
    document = extractor.extract(page.body, content_type, url)
    state, reason = outcome_of(document)
    if state != "record":
        return dropped("failed" if state == "failed" else "skipped", reason)
    metadata = {"site": site, **({"license": license_id} if license_id else {}), **document.metadata}
    fetched_at = page.date or datetime.now(UTC).isoformat(timespec="seconds")
    record = Record.from_content(document.content, document.media_type, url, **metadata)
    return FetchResult(url, "record", "", page.status, len(page.body), 0, 0.0, record, fetched_at)
