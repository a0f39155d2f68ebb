"""WARC files in, what became of each response out. A broken record is named, and the next one is found behind it."""

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

from provenlm.core.records import Fetch, Record
from provenlm.scraping.crawl.host_queue import fate_of
from provenlm.scraping.crawl.urls import canonical
from provenlm.scraping.extraction.reader import Reader
from provenlm.scraping.sources.tables import matching

GZIP, PLAIN = b"\x1f\x8b\x08", b"WARC/1."
HEADERS = 1 << 16  # bytes a record's own headers may take
CHUNK = 1 << 16
BROKEN = (ArchiveLoadFailed, zlib.error, EOFError, ValueError, KeyError, AttributeError, OSError)


@dataclass(frozen=True)
class Warc:
    """The responses of WARC files, compressed record by record or not at all."""

    kind: Literal["warc"]
    files: tuple[str, ...]  # paths or patterns
    licence: str | None  # null: what the pages say


def fetch(source: Warc, reader: Reader, limit: int) -> Iterator[Fetch]:
    """Every response, file by file; of one address the first. `limit`: decoded bytes of a page."""
    for name in matching(source.files):
        with Path(name).open("rb") as file:
            if Path(name).stat().st_size == 0:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for offset, raw in pieces(data, limit + HEADERS):
                    yield from _judged(f"{name}:{offset}", raw, name, source, reader, limit)


def pieces(data: mmap.mmap | bytes, limit: int) -> Iterator[tuple[int, bytes | str]]:
    """Where each record begins and its bytes, unpacked; or why there are none: damaged, too-large."""
    offset = 0
    while offset < len(data):
        if data[offset : offset + 3] == GZIP:
            raw, end = _unpacked(data, offset, limit)
        elif data[offset : offset + 7] == PLAIN:
            raw, end = _plain(data, offset, limit)
        else:
            raw, end = "damaged", 0
        yield offset, raw
        offset = end or _next(data, offset + 1)


def _next(data: mmap.mmap | bytes, start: int) -> int:
    """Where, from `start` on, something begins that is a record by its first bytes."""
    while start < len(data):
        found = [place for place in (data.find(GZIP, start), data.find(PLAIN, start)) if place >= 0]
        if not found:
            return len(data)
        start = min(found)
        head = _unpacked(data, start, 16)[0] if data[start : start + 3] == GZIP else PLAIN
        if head == "too-large" or (isinstance(head, bytes) and head.startswith(PLAIN)):
            return start
        start += 1
    return len(data)


def _unpacked(data: mmap.mmap | bytes, offset: int, limit: int) -> tuple[bytes | str, int]:
    """One gzip member and where it ends; 0 where that cannot be known. At most `limit` bytes of it are held."""
    unpacker, held, size = zlib.decompressobj(31), bytearray(), 0
    place = offset
    try:
        while not unpacker.eof and place < len(data):
            chunk = data[place : place + CHUNK]
            place += len(chunk)
            while chunk and not unpacker.eof:
                piece = unpacker.decompress(chunk, CHUNK)
                chunk = unpacker.unconsumed_tail
                size += len(piece)
                held += piece if size <= limit else b""
                if size > limit and limit < CHUNK:  # only a look at its beginning was wanted
                    return "too-large" if piece.startswith(PLAIN) else "damaged", 0
    except zlib.error:
        return "damaged", 0
    if not unpacker.eof:
        return "damaged", 0
    return ("too-large" if size > limit else bytes(held)), place - len(unpacker.unused_data)


def _plain(data: mmap.mmap | bytes, offset: int, limit: int) -> tuple[bytes | str, int]:
    """One record that is not compressed and where it ends, by its own Content-Length."""
    head = data[offset : offset + HEADERS].partition(b"\r\n\r\n")[0]
    lengths = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    if len(lengths) != 1 or not lengths[0].isdigit():
        return "damaged", 0
    end = offset + len(head) + 4 + int(lengths[0])
    if data[end : end + 4] != b"\r\n\r\n":
        return "damaged", 0
    return ("too-large" if end - offset > limit else bytes(data[offset : end + 4])), end + 4


def _judged(place: str, raw: bytes | str, site: str, source: Warc, reader: Reader, limit: int) -> Iterator[Fetch]:
    """The fate of one record; none of one that is no response."""
    if isinstance(raw, str):
        yield Fetch(place, "failed" if raw == "damaged" else "refused", raw, None, 0, 0, 0.0, None)
        return
    try:
        records = [_response(record, limit) for record in ArchiveIterator(io.BytesIO(raw)) if record.rec_type == "response"]
    except BROKEN:
        yield Fetch(place, "failed", "damaged", None, 0, 0, 0.0, None)
        return
    for url, status, content_type, date, body in records:
        yield _page(place, url, status, content_type, date, body, site, source, reader, limit)


def _response(record: ArcWarcRecord, limit: int) -> tuple[str, int, str, str, bytes]:
    http = record.http_headers
    body = record.content_stream().read(limit + 1)
    url = record.rec_headers.get_header("WARC-Target-URI").strip("<>")
    return (
        url,
        int(http.get_statuscode()),
        http.get_header("Content-Type") or "",
        record.rec_headers.get_header("WARC-Date") or "",
        body,
    )


def _page(
    place: str,
    url: str,
    status: int,
    content_type: str,
    date: str,
    body: bytes,
    site: str,
    source: Warc,
    reader: Reader,
    limit: int,
) -> Fetch:
    address = canonical(url)
    media_type = content_type.partition(";")[0].strip().lower()
    if address is None or status != 200:
        return Fetch(
            address or place,
            "failed" if address else "refused",
            f"http-{status}" if address else "bad-url",
            status,
            0,
            0,
            0.0,
            None,
        )
    if len(body) > limit or media_type not in reader.accepts:
        return Fetch(address, "refused", "too-large" if len(body) > limit else "content-type", status, len(body), 0, 0.0, None)
    page = reader.page(body, content_type, address)
    state, reason = fate_of(page)
    if state != "record":
        return Fetch(address, "failed" if state == "failed" else "refused", reason, status, len(body), 0, 0.0, None)
    said = {"site": site, **({"licence": source.licence} if source.licence else {}), **page.facts}
    came = date or datetime.now(UTC).isoformat(timespec="seconds")
    return Fetch(address, "record", "", status, len(body), 0, 0.0, Record.of(page.body, page.media_type, address, **said), came)
