import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator

from provenlm.core.errors import UserError
from provenlm.core.progress import Progress
from provenlm.scraping.crawl.archive import Archive
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import Manners
from provenlm.scraping.crawl.urls import Bounds, Site
from provenlm.scraping.extraction.reader import TEXT, Page, Reader

DATE = "2026-03-01T12:00:00+00:00"


def archived(folder: Path) -> dict[str, bytes]:
    """What another reader of WARC finds below `folder`."""
    found = {}
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                found[record.rec_headers["WARC-Target-URI"]] = record.content_stream().read()
    return found


def test_a_response_is_kept_as_any_reader_of_warc_expects(tmp_path) -> None:
    place = Archive(tmp_path, {}).append("http://h/", {"Content-Type": "text/html", "Content-Encoding": "gzip"}, b"<p>x", DATE)
    with (tmp_path / place.file).open("rb") as file:
        (record,) = ArchiveIterator(file, check_digests="raise")
        assert (record.rec_type, record.rec_headers["WARC-Date"]) == ("response", "2026-03-01T12:00:00Z")
        assert record.http_headers.headers == [
            ("Content-Type", "text/html"),
            ("X-Crawl-Content-Encoding", "gzip"),
            ("Content-Length", "4"),
        ]


def test_headers_that_no_standard_allows_spoil_no_record(tmp_path) -> None:
    archive = Archive(tmp_path, {})
    place = archive.append(
        "http://h/", {"X-Caf\xe9": "\xb2 \u4f60\r\nX-Injected: 1", "": "", "Set Cookie": "a", "X-Lang": "\xb2"}, b"x", DATE
    )
    assert (archive.body(place), archived(tmp_path)) == (b"x", {"http://h/": b"x"})


def test_what_is_kept_comes_back(tmp_path) -> None:
    archive = Archive(tmp_path, {})
    places = [archive.append(f"http://h/{number}", {}, bytes([number]) * 100, DATE) for number in range(5)]
    assert [archive.body(place) for place in places] == [bytes([number]) * 100 for number in range(5)]


def test_what_a_killed_process_wrote_and_nobody_knows_of_is_cut_off(tmp_path) -> None:
    place = Archive(tmp_path, {}).append("http://h/", {}, b"known", DATE)
    path = tmp_path / place.file
    path.write_bytes(path.read_bytes() + b"\x1f\x8b half a member")
    again = Archive(tmp_path, {place.file: place.offset + place.length})
    other = again.append("http://h/2", {}, b"next", DATE)
    assert (again.body(place), again.body(other)) == (b"known", b"next")
    assert archived(tmp_path) == {"http://h/": b"known", "http://h/2": b"next"}


def test_a_damaged_archive_is_named(tmp_path) -> None:
    archive = Archive(tmp_path, {})
    place = archive.append("http://h/", {}, b"x" * 1000, DATE)
    (tmp_path / place.file).write_bytes(b"\0" * 2000)
    with pytest.raises(UserError, match=r"00000.warc.gz: damaged at byte 0; delete the state"):
        archive.body(place)


def test_an_archive_of_which_little_is_wanted_is_written_anew(tmp_path) -> None:
    archive = Archive(tmp_path, {})
    places = [archive.append(f"http://h/{number}", {}, bytes([number]) * 5000, DATE) for number in range(9)]
    assert archive.compacted(places[:6]) == {}
    moved = archive.compacted(places[:3])
    archive.forget({place.file for place in moved.values()})
    assert [archive.body(moved[place]) for place in places[:3]] == [bytes([number]) * 5000 for number in range(3)]
    assert len(list(tmp_path.iterdir())) == 1
    assert len(archived(tmp_path)) == 3


SHOUTING = replace(
    TEXT,
    read=lambda body, kind, url: replace(TEXT.read(body, kind, url), body=TEXT.read(body, kind, url).body.upper()),
    version="2",
)


def crawled(web, state: Path, reader: Reader, offline: bool, max_pages: int = 99):
    sites = [Site("s", f"{web.url}/", Bounds("host", (), (), max_pages, 1 << 24, 9, 9))]
    manners = Manners("", 0.0, 30.0, 1, 1.0, 1 << 20, ("127.0.0.1",))
    return list(crawl(sites, manners, reader, state, Progress("crawl", "pages", None), {}, offline))


def fill(web) -> None:
    web.html("/", "start", ("/a", "/empty", "/gone"))
    web.html("/a", "page a", ETag='"a"')
    web.pages["/empty"] = (200, {}, b"<nav>menu</nav>")


def test_a_better_reader_reads_again_without_a_single_request(web, tmp_path) -> None:
    fill(web)
    before = crawled(web, tmp_path, TEXT, offline=False)
    web.asked.clear()
    after = crawled(web, tmp_path, SHOUTING, offline=True)
    assert web.asked == []
    assert [fetch.record and fetch.record.body.upper() for fetch in before] == [
        fetch.record and fetch.record.body for fetch in after
    ]
    assert [(fetch.url, fetch.state, fetch.reason, fetch.fetched_at) for fetch in before] == [
        (fetch.url, fetch.state, fetch.reason, fetch.fetched_at) for fetch in after
    ]


def test_a_better_reader_finds_a_page_where_there_seemed_to_be_none(web, tmp_path) -> None:
    fill(web)
    assert {fetch.reason for fetch in crawled(web, tmp_path, TEXT, offline=False)} == {"", "empty", "http-404"}
    everything = Reader(TEXT.accepts, lambda body, kind, url: Page(body, kind, {}, ()), "everything")
    assert {fetch.reason for fetch in crawled(web, tmp_path, everything, offline=True)} == {"", "http-404"}


def test_a_page_that_has_not_changed_is_read_again_by_a_better_reader(web, tmp_path) -> None:
    fill(web)
    crawled(web, tmp_path, TEXT, offline=False)
    web.pages["/a"] = (304, {}, b"")
    again = {fetch.url: fetch for fetch in crawled(web, tmp_path, SHOUTING, offline=False)}[f"{web.url}/a"]
    assert (again.status, again.record.text) == (304, "PAGE A")


def test_every_page_of_a_crawl_lies_in_its_archive_to_the_byte(web, tmp_path) -> None:
    fill(web)
    crawled(web, tmp_path, TEXT, offline=False)
    assert archived(tmp_path / "warc") == {f"{web.url}{path}": web.pages[path][2] for path in ("/", "/a", "/empty")}


def test_what_comes_again_to_the_byte_is_not_kept_twice(web, tmp_path) -> None:
    fill(web)
    crawled(web, tmp_path, TEXT, offline=False)
    size = (tmp_path / "warc" / "00000.warc.gz").stat().st_size
    crawled(web, tmp_path, TEXT, offline=False)
    assert (tmp_path / "warc" / "00000.warc.gz").stat().st_size == size


def test_pages_that_changed_often_do_not_fill_the_disk(web, tmp_path) -> None:
    fill(web)
    sizes = []
    for number in range(8):
        web.html("/a", gzip.compress(str(number).encode()).hex() * 999)
        crawled(web, tmp_path, TEXT, offline=False)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "warc").iterdir()))
    assert max(sizes) < 3 * sizes[0]


def test_offline_needs_a_crawl_of_the_same_settings(web, tmp_path) -> None:
    with pytest.raises(UserError, match="offline: the last crawl here did not end, or was of other sites"):
        crawled(web, tmp_path, TEXT, offline=True)
    fill(web)
    crawled(web, tmp_path, TEXT, offline=False)
    with pytest.raises(UserError, match="offline: "):
        crawled(web, tmp_path, TEXT, offline=True, max_pages=5)
