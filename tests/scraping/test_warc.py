"""Test that WARC and WET files of other programs are read, whatever their compression, encodings and record types."""

import gzip
import http.server
import os
import threading
import zlib
from functools import partial
from pathlib import Path

import brotli
import pytest
import zstandard

from provenlm.core.records import FetchResult
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR
from provenlm.scraping.sources.warc import WarcSource, fetch_warc, sniff_media_type

compress_gzip = partial(gzip.compress, mtime=0)  # the bytes are in names of tests, which all workers must agree on
TEXT = "The ferry leaves at nine from the old pier, and the baker waves."
PAGE = f"<!doctype html><html><head><title>t</title></head><body><main><p>{TEXT}</p></main></body></html>".encode()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(kind: str, url: str, body: bytes, content_type: str) -> bytes:
    fields = {"WARC-Type": kind, "WARC-Target-URI": url, "WARC-Date": "2026-05-01T00:00:00Z", "Content-Length": str(len(body))}
    fields |= {"WARC-Record-ID": "<urn:uuid:00000000-0000-0000-0000-000000000000>"} | (
        {"Content-Type": content_type} if content_type else {}
    )
    return b"WARC/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields.items()).encode() + b"\r\n" + body + b"\r\n\r\n"


def response(url: str, body: bytes = PAGE, status: int = 200, **headers: str) -> bytes:
    fields = {"Content-Type": "text/html"} | {key.replace("_", "-"): value for key, value in headers.items()}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields.items() if value) + "\r\n"
    return record("response", url, head.encode() + body, "application/http; msgtype=response")


def fetch(content: bytes, name: str = "a.warc", max_bytes: int = 50_000, **settings: object) -> list[FetchResult]:
    Path(name).write_bytes(content)
    source = WarcSource("warc", (name,), **settings)  # type: ignore[arg-type]
    return list(fetch_warc(source, TEXT_EXTRACTOR, max_bytes))


def outcomes(results: list[FetchResult]) -> dict[str, str]:
    return {result.url: result.record.text if result.record else result.reason for result in results}


def chunked(body: bytes) -> bytes:
    return (
        b"".join(b"%x\r\n%s\r\n" % (len(body[at : at + 50]), body[at : at + 50]) for at in range(0, len(body), 50)) + b"0\r\n\r\n"
    )


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


NOISE = brotli.compress(os.urandom(900))


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (brotli.compress(PAGE), {"Content_Encoding": "br"}, TEXT),
        (zstandard.compress(PAGE), {"Content_Encoding": "zstd"}, TEXT),
        (compress_gzip(PAGE), {"Content_Encoding": "gzip"}, TEXT),
        (zlib.compress(PAGE), {"Content_Encoding": "deflate"}, TEXT),
        (deflate(PAGE), {"Content_Encoding": "deflate"}, TEXT),
        (chunked(compress_gzip(PAGE)), {"Content_Encoding": "gzip", "Transfer_Encoding": "chunked"}, TEXT),
        (brotli.compress(compress_gzip(PAGE)), {"Content_Encoding": "gzip, br"}, TEXT),
        (compress_gzip(PAGE)[:-12], {"Content_Encoding": "gzip"}, TEXT),
        (PAGE, {"Content_Encoding": "gzip", "Transfer_Encoding": "chunked"}, TEXT),  # undone by the archiver
        (PAGE, {"Content_Encoding": "br"}, TEXT),
        (NOISE[:700], {"Content_Encoding": "br"}, "decoding"),
        (b"\0\1" + PAGE, {"Content_Encoding": "exi"}, "decoding"),
        (compress_gzip(bytes(1_000_000)), {"Content_Encoding": "gzip"}, "too-large"),
        (PAGE, {"Content_Type": ""}, TEXT),
        (PAGE, {"Content_Type": "application/octet-stream"}, TEXT),
        (TEXT.encode(), {"Content_Type": ""}, TEXT),
        (b"\x89PNG\r\n\x1a\n\0\0", {"Content_Type": ""}, "content-type"),
        (PAGE, {"Content_Type": "image/png"}, "content-type"),
    ],
)
def test_bodies_are_decoded_and_typed_or_refused(body: bytes, headers: dict[str, str], expected: str) -> None:
    (result,) = fetch(response("http://h/a", body, **headers))
    assert (result.record.text if result.record else result.reason) == expected
    assert result.state == ("record" if expected == TEXT else "failed" if expected == "decoding" else "skipped")


def test_pages_that_are_no_responses_are_read_and_other_records_counted() -> None:
    parts = [
        record("warcinfo", "", b"software: x\r\n", "application/warc-fields"),
        record("request", "http://h/a", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        record("conversion", "http://h/wet", TEXT.encode(), "text/plain"),
        record("resource", "http://h/page", PAGE, "text/html"),
        record("resource", "file:///notes/n.txt", TEXT.encode(), "text/plain"),
        record("resource", "urn:x", PAGE, ""),
        record("revisit", "http://h/r", b"", "application/http; msgtype=response"),
        response("http://h/gone", status=404),
    ]
    offsets = [sum(map(len, parts[:number])) for number in range(len(parts))]
    assert outcomes(fetch(b"".join(parts))) == {
        "a.warc:0": "warc-warcinfo", f"a.warc:{offsets[1]}": "warc-request", "http://h/wet": TEXT, "http://h/page": TEXT,
        "file:///notes/n.txt": TEXT, "urn:x": TEXT, f"a.warc:{offsets[6]}": "warc-revisit", "http://h/gone": "http-404",
    }  # fmt: skip


PARTS = [response(f"http://h/{number}", PAGE.replace(b"nine", b"%d" % number)) for number in range(4)]
URLS = [f"http://h/{number}" for number in range(4)]


@pytest.mark.parametrize(
    "content",
    [
        b"".join(PARTS),
        b"".join(map(compress_gzip, PARTS)),
        compress_gzip(b"".join(PARTS)),
        b"".join(map(zstandard.compress, PARTS)),
        zstandard.compress(b"".join(PARTS)),
    ],
)
def test_every_compression_gives_the_same_pages(content: bytes) -> None:
    assert [result.url for result in fetch(content, "a.warc.any", max_bytes=1000) if result.record] == URLS


@pytest.mark.parametrize("pack", [bytes, compress_gzip, zstandard.compress])
def test_reading_goes_on_behind_a_damaged_record(pack) -> None:
    packed = [pack(part) for part in PARTS]
    begin = len(packed[0])
    damaged = bytearray(b"".join(packed))
    damaged[begin : begin + 60] = b"#" * 60
    results = fetch(bytes(damaged[:-30]))
    assert [result.url for result in results if result.record] == ["http://h/0", "http://h/2"]
    assert [result.reason for result in results if not result.record] == ["damaged", "damaged"]
    assert begin in [int(result.url.split(":")[1]) for result in results if not result.record] or pack is zstandard.compress


def test_a_remote_file_is_streamed() -> None:
    Path("a.warc.gz").write_bytes(b"".join(map(compress_gzip, PARTS)))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keep the output clean."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory="."))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = WarcSource("warc", (f"http://127.0.0.1:{server.server_port}/a.warc.gz",), limit=3)
        assert [result.url for result in fetch_warc(source, TEXT_EXTRACTOR, 1000)] == URLS[:3]
    finally:
        server.shutdown()
        server.server_close()


def test_a_sample_of_pages_names_those_it_leaves_out() -> None:
    results = fetch(b"".join(response(f"http://h/{number}") for number in range(100)), sample_frac=0.5)
    assert 25 < sum(result.reason == "not-sampled" for result in results) < 75
    assert len(results) == 100


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"  <!DOCTYPE HTML><p>", "text/html"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><html xmlns="x">', "text/html"),
        (b"<!-- c --><p>", "text/html"),
        (b"<pre-order> of the tree", "text/plain"),
        (b"plain\x1b[0m text", "text/plain"),
        (b"%PDF-1.4", ""),
        (b"GIF89a\0", ""),
        (b"", ""),
    ],
)
def test_a_missing_type_is_sniffed(body: bytes, media_type: str) -> None:
    assert sniff_media_type(body) == media_type
