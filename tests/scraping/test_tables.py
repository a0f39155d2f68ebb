"""Test that tables of every common format and compression become items, and that nothing in them is lost without a word."""

import bz2
import csv
import gzip
import json
import lzma
import os
from datetime import UTC, date, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from provenlm.core import records
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.scraping.extraction.text_decoder import TEXT_DECODER
from provenlm.scraping.sources.local import LocalSource, fetch_sources
from provenlm.scraping.sources.record_folder import RecordFolderSource
from provenlm.scraping.sources.tables import TableSource

compress_gzip = partial(gzip.compress, mtime=0)  # the bytes are in names of tests, which all workers must agree on
ROWS = [{"text": "The ferry leaves at nine.", "n": 1}, {"text": "Bread is baked at dawn.", "n": 2}]
JSONL = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fetch(*sources: LocalSource, max_bytes: int = 10_000) -> dict[str, FetchResult]:
    progress = ProgressReporter("scrape", "items", None)
    return {result.url: result for result in fetch_sources(sources, TEXT_DECODER, Path("state"), progress, max_bytes=max_bytes)}


def texts(*sources: LocalSource) -> list[str]:
    return [result.record.text for result in fetch(*sources).values() if result.record]


def write_jsonl(name: str, *rows: object) -> TableSource:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TableSource("jsonl", (name,))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", JSONL),
        ("rows.JSONL.GZ", compress_gzip(JSONL[:40]) + compress_gzip(JSONL[40:])),
        ("rows.zst", zstandard.compress(JSONL[:40]) + zstandard.compress(JSONL[40:])),
        ("rows.bz2", bz2.compress(JSONL)),
        ("rows.xz", lzma.compress(JSONL)),
        ("no_suffix", compress_gzip(JSONL)),
        ("array.json", json.dumps(ROWS).encode()),
        ("array_indented.json", b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode()),
        ("array.json.gz", compress_gzip(json.dumps(ROWS, indent=1).encode())),
        ("objects_indented.json", b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS)),
    ],
)
def test_json_is_read_whatever_its_compression_and_layout(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    assert texts(TableSource("jsonl", (name,))) == TEXTS


def test_an_array_larger_than_the_buffer_is_read_row_by_row() -> None:
    rows = [{"text": f"{number} " + 'a]}[{\\",' * 900} for number in range(40)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")
    assert texts(TableSource("jsonl", ("rows.json",))) == [row["text"] for row in rows]


def test_lists_at_the_start_of_jsonl_do_not_make_it_an_array() -> None:
    results = fetch(write_jsonl("rows.jsonl", [{"text": "in a list"}], [1], *ROWS))
    assert [result.reason or result.state for result in results.values()] == ["json", "json", "record", "record"]


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (json.dumps([ROWS[0], 5, [1], ROWS[1]]), ["record", "json", "json", "record"]),
        ('[{"text": "a"}, {"text": ', ["record", "json"]),
        ('[{"text": "a"}]\n\n{"text": "b"}', ["record", "json"]),
        (json.dumps([{"text": "a"}, {"text": "b" * 90_000}, {"text": "c"}]), ["record", "too-large", "damaged"]),
    ],
)
def test_what_an_array_loses_has_a_reason(content: str, reasons: list[str]) -> None:
    Path("rows.json").write_text(content, encoding="utf-8")
    assert [result.reason or result.state for result in fetch(TableSource("jsonl", ("rows.json",))).values()] == reasons


@pytest.mark.parametrize(
    "packed", [zstandard.compress, partial(bz2.compress, compresslevel=1), partial(lzma.compress, preset=0), compress_gzip]
)
def test_a_cut_compressed_file_ends_with_the_reason_damaged(packed: Any) -> None:
    content = packed(b"".join(json.dumps({"text": os.urandom(400).hex()}).encode() + b"\n" for _ in range(1000)))
    Path("rows").write_bytes(content[: len(content) // 2])
    results = list(fetch(TableSource("jsonl", ("rows",))).values())
    assert [result.reason for result in results[-1:]] == ["damaged"]
    assert len(results) > 100


@pytest.mark.parametrize(
    ("kind", "content", "found"),
    [
        ("jsonl", b"PAR1 and more", "Parquet, must be JSONL; set kind: parquet"),
        ("jsonl", b"PK\x03\x04 and more", "ZIP"),
        ("jsonl", compress_gzip(b"a".ljust(257, b"\0") + b"ustar\0"), "tar"),
        ("jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("jsonl", b"<!DOCTYPE html><p>404", "HTML"),
        ("parquet", JSONL, "JSONL, must be Parquet; set kind: jsonl"),
        ("parquet", compress_gzip(JSONL), "gzip"),
        ("csv", b"SQLite format 3\0", "SQLite"),
    ],
)
def test_a_file_of_another_format_is_named_once(kind: Any, content: bytes, found: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows").write_bytes(content)
    with pytest.raises(DataError, match="got none: 1 of 1 failed format, first rows; the files must have the format"):
        fetch(TableSource(kind, ("rows",)))
    assert f"rows: starts like {found}" in capsys.readouterr().out


def test_a_home_folder_and_a_dotted_path_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    write_jsonl("rows.jsonl", {"data": {"text": "a", "of": [{"url": "http://h/a"}]}, "data.text": "with a dot in its name"})
    write_jsonl("more.jsonl", {"data": {"text": "b", "of": [{"url": 7}], "day": "2026-01-02"}})
    results = fetch(TableSource("jsonl", ("~/*.jsonl",), "data.text", "data.of.0.url", ("data.day",)))
    assert {url: result.record.text for url, result in results.items() if result.record} == {
        "7": "b",
        "http://h/a": "with a dot in its name",
    }
    assert results["7"].record is not None and results["7"].record.metadata["day"] == "2026-01-02"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_column_that_no_row_has_is_named_with_those_that_there_are(kind: Any) -> None:
    write_table("rows", kind, ROWS)
    for key in ("content", "source"):
        with pytest.raises(ConfigError, match=rf"^sources\[0\]: {key}: none of 2 rows has column 'txet'; must be one of: text, n$"):
            fetch(TableSource(kind, ("rows",), **{key: "txet"}))


def write_table(name: str, kind: str, rows: list[dict[str, Any]]) -> None:
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), name)
    elif kind == "jsonl":
        write_jsonl(name, *rows)
    else:
        with Path(name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def test_rows_without_the_column_are_counted_by_file(capsys: pytest.CaptureFixture[str]) -> None:
    results = fetch(write_jsonl("rows.jsonl", *ROWS, {"txt": "c", "id": 3}, {"txt": "d"}))
    assert [result.reason for result in results.values()] == ["", "", "no-content", "no-content"]
    assert "rows.jsonl: 2 rows have no column 'text'; they have: txt, id\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_metadata_columns_are_optional_and_can_be_renamed(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_table("a", kind, [{"text": "a", "licence": "MIT", "tags": ["x"], "score": 0.5}])
    write_table("b", kind, [{"text": "b"}])
    source = TableSource(kind, ("a", "b"), metadata=("licence", "tags", "score", "author"), rename={"licence": "license"})
    found = [result.record.metadata for result in fetch(source).values() if result.record]
    assert found == [{"site": "a", "license": "MIT", "tags": ["x"], "score": 0.5}, {"site": "b"}]
    assert "metadata: none of 2 rows has column 'author'; they have: text, licence, tags, score\n" in capsys.readouterr().out


def test_dates_bytes_and_nested_cells_of_parquet_become_text() -> None:
    row = {
        "body": "caf\u00e9".encode(),
        "day": datetime(2026, 5, 1, tzinfo=UTC),
        "hour": datetime(2026, 5, 1, 9, 30),
        "on": date(2026, 5, 2),
    }
    pq.write_table(pa.Table.from_pylist([row, {**row, "body": b"\xff\0"}]), "rows")
    results = fetch(TableSource("parquet", ("rows",), "body", metadata=("day", "hour", "on")))
    record = results["rows:1"].record
    assert record is not None
    assert (record.text, record.media_type) == ("caf\u00e9", "text/plain")
    assert record.metadata == {"site": "rows", "day": "2026-05-01", "hour": "2026-05-01T09:30:00", "on": "2026-05-02"}
    assert results["rows:2"].reason == "no-text"


def test_rows_that_share_an_address_are_kept() -> None:
    rows = [{"text": text, "url": "u"} for text in ("a", "b", "a", "c")]
    results = fetch(write_with_source("rows.jsonl", *rows, {"text": "d", "url": "u#2"}))
    assert {url: result.record and result.record.text for url, result in results.items()} == {
        "u": "a", "u#2": "b", "u (2)": None, "u#3": "c", "u#2#2": "d",
    }  # fmt: skip
    assert results["u (2)"].reason == "repeated"


def write_with_source(name: str, *rows: object) -> TableSource:
    write_jsonl(name, *rows)
    return TableSource("jsonl", (name,), source="url")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'id,text\n1,"a, b\nc"\n2,d\n', ["a, b\nc", "d"]),
        (b"\xef\xbb\xbfid;text\r\n1;a, b\r\n", ["a, b"]),
        (b"id\ttext\n1\ta\n", ["a"]),
        (compress_gzip(b"text|id\na|1\n"), ["a"]),
    ],
)
def test_csv_is_read_with_the_delimiter_of_its_header(content: bytes, expected: list[str]) -> None:
    Path("rows.csv").write_bytes(content)
    assert texts(TableSource("csv", ("rows.csv",))) == expected


def test_bad_rows_of_csv_and_tsv_have_a_reason() -> None:
    Path("rows.tsv").write_bytes(b"text\tid\na, b; c\t1\n\ncaf\xe9\t2\nx\ty\tz\nshort\n")
    results = fetch(TableSource("tsv", ("rows.tsv",)))
    assert {url: result.reason or result.state for url, result in results.items()} == {
        "rows.tsv:1": "record", "rows.tsv:3": "encoding", "rows.tsv:4": "columns", "rows.tsv:5": "record",
    }  # fmt: skip


def test_an_open_quote_in_csv_is_named() -> None:
    Path("rows.csv").write_text('text\n"a" b\nc\n"d\ne\n', encoding="utf-8")
    results = fetch(TableSource("csv", ("rows.csv",)))
    assert [result.record.text if result.record else result.reason for result in results.values()] == ["csv", "c", "csv"]


def test_two_columns_of_one_name_end_no_scrape() -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), "rows")
    assert [result.state for result in fetch(TableSource("parquet", ("rows",))).values()] == ["record"]


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]


@pytest.mark.parametrize(
    ("row", "content", "expected"),
    [
        ({"messages": MESSAGES}, "messages", "user: Hi\nassistant: Hello\n"),
        ({"c": {"turns": [{"from": "human", "value": "Hi"}]}}, "c.turns", "human: Hi\n"),
        ({"role": "Q", "content": "Why?"}, None, "Q: Why?\n"),
        ({"messages": [{"role": "user"}]}, "messages", None),
        ({"messages": [{"role": "a", "content": None, "tool_calls": []}]}, "messages", "a: \n"),
        ({"messages": []}, "messages", None),
    ],
)
def test_a_template_turns_messages_and_rows_into_text(row: dict[str, Any], content: str | None, expected: str | None) -> None:
    write_jsonl(
        "rows.jsonl", {"messages": [{"role": "system", "content": "x"}], "c": {"turns": []}, "role": "r", "content": "z"}, row
    )
    result = fetch(TableSource("jsonl", ("rows.jsonl",), content, template="{role}: {content}\n"))["rows.jsonl:2"]
    assert (result.record.text if result.record else None) == expected
    assert result.reason == ("" if expected else "no-content")


def test_html_in_a_column_is_extracted_and_columns_win_over_its_title() -> None:
    page = "<title>Page</title><body><nav>menu</nav><main><p>The ferry leaves at nine from the old pier.</p></main>"
    write_jsonl("rows.jsonl", {"text": page, "title": "Row"}, {"text": page.replace("nine", "ten")})
    results = fetch(TableSource("jsonl", ("rows.jsonl",), metadata=("title",), content_format="html"))
    found = [(result.record.text, result.record.metadata["title"]) for result in results.values() if result.record]
    assert found == [("The ferry leaves at nine from the old pier.", "Row"), ("The ferry leaves at ten from the old pier.", "Page")]


def test_strings_that_are_no_utf_8_end_no_scrape() -> None:
    Path(os.fsdecode(b"caf\xe9.jsonl")).write_text(
        '{"text": "a", "url": "u\\ud83d", "title": "t\\udce9"}\n{"text": "b\\ud83d", "url": "v"}\n', encoding="utf-8"
    )
    results = fetch(TableSource("jsonl", ("*.jsonl",), source="url", metadata=("title",)))
    first = results["u\\ud83d"].record
    assert first is not None and first.metadata == {"site": "caf\\xe9.jsonl", "title": "t?"}
    assert results["v"].record is not None and results["v"].record.text == "b?"


def test_a_parquet_cell_that_is_no_utf_8_is_one_refusal() -> None:
    column = pa.array([b"a", b"caf\xe9", b"c"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), "rows")
    results = fetch(TableSource("parquet", ("rows",)))
    assert [result.reason or result.state for result in results.values()] == ["record", "encoding", "record"]


def test_the_records_of_a_stage_are_a_source() -> None:
    given = [
        Record.from_content("caf\u00e9 --- 1".encode(), "text/markdown", "http://h/1", title="One", license="MIT"),
        Record.from_content(b"x = 1\n", "text/x-python", "b.py"),
    ]
    records.write_records(given, Path("data/made/deduped"))
    results = fetch(RecordFolderSource("records", "data/made/deduped", license="CC0-1.0"))
    kept = [result.record for result in results.values() if result.record]
    assert [(r.id, r.media_type, r.source) for r in kept] == [(r.id, r.media_type, r.source) for r in given]
    assert [r.metadata["license"] for r in kept] == ["MIT", "CC0-1.0"]
    assert texts(TableSource("parquet", ("data/made/deduped/*.parquet",), "content", "source")) == ["caf\u00e9 --- 1", "x = 1\n"]


def test_a_limit_and_a_sample_take_part_of_a_source() -> None:
    source = write_jsonl("rows.jsonl", {"txt": "no"}, *({"text": f"row {number}"} for number in range(400)))
    assert texts(TableSource("jsonl", source.files, limit=3)) == ["row 0", "row 1", "row 2"]
    half, quarter = (set(texts(TableSource("jsonl", source.files, sample_frac=fraction))) for fraction in (0.5, 0.25))
    assert quarter < half
    assert (abs(len(half) - 200) < 50, abs(len(quarter) - 100) < 45) == (True, True)
    for settings in ({"limit": 0}, {"sample_frac": 0.0}, {"sample_frac": 1.5}, {"template": "x"}, {"rename": {"a": "b"}}):
        with pytest.raises(ValueError, match="must"):
            TableSource("jsonl", source.files, **settings)


def test_a_source_without_records_names_its_most_frequent_reason() -> None:
    Path("rows.jsonl").write_text('{"text": ""}\nno json\nnone here\n', encoding="utf-8")
    with pytest.raises(DataError) as error:
        fetch(write_jsonl("good.jsonl", *ROWS), TableSource("jsonl", ("rows.jsonl",)))
    expected = "2 of 3 failed json, first rows.jsonl:2; a row must be a JSON object"
    assert str(error.value) == f"sources[1]: must yield at least one record, got none: {expected}"


def test_the_first_record_of_an_address_is_kept_behind_a_failure() -> None:
    write_jsonl("a.jsonl", {"text": "x" * 20_000, "url": "u"}, {"text": "y", "url": "v"})
    write_jsonl("b.jsonl", {"text": "small", "url": "a.jsonl:1"}, {"text": "again", "url": "v"})
    results = fetch(TableSource("jsonl", ("a.jsonl",), source="url"), TableSource("jsonl", ("b.jsonl",), source="url"))
    assert {url: result.reason or result.state for url, result in results.items()} == {
        "a.jsonl:1": "too-large", "v": "record", "a.jsonl:1 (2)": "record", "v (2)": "repeated",
    }  # fmt: skip
    record = results["a.jsonl:1 (2)"].record
    assert record is not None and record.source == "a.jsonl:1"


class QuietHandler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer requests behind the first megabyte of a large file with an error."""
        if self.path == "/large.jsonl" and not self.headers.get("Range", "").startswith("bytes=0-"):
            self.send_error(500)
        else:
            super().do_GET()

    def send_head(self) -> Any:
        """Claim a length that asks for a second request."""
        if self.path != "/large.jsonl":
            return super().send_head()
        content = b" " * 6_000_000
        last = len(content) - 1 if self.command == "HEAD" else int(self.headers["Range"].rpartition("-")[2])
        part = content[: last + 1]
        self.send_response(200 if self.command == "HEAD" else 206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if self.command != "HEAD":
            self.send_header("Content-Range", f"bytes 0-{last}/{len(content)}")
        self.end_headers()
        return BytesIO(part)

    def log_message(self, *args: object) -> None:
        """Keep the output clean."""


def test_files_at_http_addresses_are_read() -> None:
    Path("rows.jsonl.gz").write_bytes(compress_gzip(JSONL))
    write_table("rows.parquet", "parquet", ROWS)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory="."))
    Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    try:
        assert list(fetch(TableSource("jsonl", (f"{root}/rows.jsonl.gz",)))) == [f"{root}/rows.jsonl.gz:{n}" for n in (1, 2)]
        assert texts(TableSource("parquet", (f"{root}/rows.parquet",))) == TEXTS
        with pytest.raises(ConfigError, match=rf"^sources\[0\]: files must exist, got '{root}/none.jsonl'$"):
            fetch(TableSource("jsonl", (f"{root}/none.jsonl",)))
        with pytest.raises(DataError, match=rf"^sources\[0\]: files: {root}/large.jsonl: cannot be read: 500"):
            fetch(TableSource("jsonl", (f"{root}/large.jsonl",)))
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(DataError, match=rf"^sources\[0\]: files: {root}/rows.jsonl: cannot be read: "):
        fetch(TableSource("jsonl", (f"{root}/rows.jsonl",)))


@pytest.mark.slow
def test_files_at_s3_addresses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="town")
        client.put_object(Bucket="town", Key="day/a.jsonl.zst", Body=zstandard.compress(JSONL))
        assert texts(TableSource("jsonl", ("s3://town/day/*.zst",))) == TEXTS
        assert list(fetch(TableSource("jsonl", ("s3://town/day/a.jsonl.zst",)))) == [
            f"s3://town/day/a.jsonl.zst:{n}" for n in (1, 2)
        ]
        with pytest.raises(ConfigError, match="files must exist, got 's3://town/b.jsonl'"):
            fetch(TableSource("jsonl", ("s3://town/b.jsonl",)))
        with pytest.raises(ConfigError, match="files must match at least one file, got 's3://town/night/"):
            fetch(TableSource("jsonl", ("s3://town/night/*",)))
    finally:
        server.stop()


class HubHandler(BaseHTTPRequestHandler):
    """Answer like the API of a hub with one data set of one file."""

    def log_message(self, *args: object) -> None:
        """Keep the output clean."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        entries = {
            "/api/datasets/o/n/tree/main": [{"type": "directory", "oid": "1", "path": "rows"}],
            "/api/datasets/o/n/tree/main/rows": [{"type": "file", "oid": "0", "size": len(JSONL), "path": "rows/a.jsonl"}],
        }
        answer = entries.get(path, {"id": "o/n", "sha": "2" * 40, "private": False, "siblings": []})
        body = JSONL if path == "/datasets/o/n/resolve/main/rows/a.jsonl" else json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.slow
def test_files_of_a_data_set_on_a_hub_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"})
    try:
        results = fetch(TableSource("jsonl", ("hf://datasets/o/n/rows/*.jsonl",)))
        assert list(results) == [f"hf://datasets/o/n/rows/a.jsonl:{number}" for number in (1, 2)]
    finally:
        server.shutdown()
        server.server_close()
