import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator

from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.scraping.crawl.archive import WarcArchive
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.database import mark_delivered
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.extractor import ExtractedDocument, Extractor
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR

DATE = "2026-03-01T12:00:00+00:00"


def read_archive(folder: Path) -> dict[str, bytes]:
    """Read the responses below `folder` with warcio."""
    contents = {}
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                contents[record.rec_headers["WARC-Target-URI"]] = record.content_stream().read()
    return contents


def test_a_response_is_stored_as_a_standard_warc_record(tmp_path) -> None:
    location = WarcArchive(tmp_path, {}).append(
        "http://h/", {"Content-Type": "text/html", "Content-Encoding": "gzip"}, b"<p>x", DATE
    )
    with (tmp_path / location.file).open("rb") as file:
        (record,) = ArchiveIterator(file, check_digests="raise")
        assert (record.rec_type, record.rec_headers["WARC-Date"]) == ("response", "2026-03-01T12:00:00Z")
        assert record.http_headers.headers == [
            ("Content-Type", "text/html"),
            ("X-Crawl-Content-Encoding", "gzip"),
            ("Content-Length", "4"),
        ]


def test_invalid_headers_do_not_break_a_warc_record(tmp_path) -> None:
    archive = WarcArchive(tmp_path, {})
    location = archive.append(
        "http://h/", {"X-Caf\xe9": "\xb2 \u4f60\r\nX-Injected: 1", "": "", "Set Cookie": "a", "X-Lang": "\xb2"}, b"x", DATE
    )
    assert (archive.read_body(location), read_archive(tmp_path)) == (b"x", {"http://h/": b"x"})


def test_a_stored_body_is_read_back_unchanged(tmp_path) -> None:
    archive = WarcArchive(tmp_path, {})
    locations = [archive.append(f"http://h/{number}", {}, bytes([number]) * 100, DATE) for number in range(5)]
    assert [archive.read_body(location) for location in locations] == [bytes([number]) * 100 for number in range(5)]


def test_uncommitted_bytes_of_a_killed_process_are_truncated(tmp_path) -> None:
    location = WarcArchive(tmp_path, {}).append("http://h/", {}, b"known", DATE)
    path = tmp_path / location.file
    path.write_bytes(path.read_bytes() + b"\x1f\x8b half a member")
    reopened = WarcArchive(tmp_path, {location.file: location.offset + location.length})
    second = reopened.append("http://h/2", {}, b"next", DATE)
    assert (reopened.read_body(location), reopened.read_body(second)) == (b"known", b"next")
    assert read_archive(tmp_path) == {"http://h/": b"known", "http://h/2": b"next"}


def test_a_damaged_archive_is_reported_with_its_file(tmp_path) -> None:
    archive = WarcArchive(tmp_path, {})
    location = archive.append("http://h/", {}, b"x" * 1000, DATE)
    (tmp_path / location.file).write_bytes(b"\0" * 2000)
    with pytest.raises(ProvenlmError, match=r"00000.warc.gz: damaged at byte 0; delete the crawl state"):
        archive.read_body(location)


def test_an_archive_with_little_live_data_is_compacted(tmp_path) -> None:
    archive = WarcArchive(tmp_path, {})
    locations = [archive.append(f"http://h/{number}", {}, bytes([number]) * 5000, DATE) for number in range(9)]
    assert archive.compact(locations[:6]) == {}
    new_locations = archive.compact(locations[:3])
    archive.delete_files_except({location.file for location in new_locations.values()})
    assert [archive.read_body(new_locations[location]) for location in locations[:3]] == [
        bytes([number]) * 5000 for number in range(3)
    ]
    assert len(list(tmp_path.iterdir())) == 1
    assert len(read_archive(tmp_path)) == 3


UPPERCASE_EXTRACTOR = replace(
    TEXT_EXTRACTOR,
    extract_content=lambda body, kind, url: replace(
        TEXT_EXTRACTOR.extract_content(body, kind, url), content=TEXT_EXTRACTOR.extract_content(body, kind, url).content.upper()
    ),
    version="2",
)


def crawl_all(web, state: Path, extractor: Extractor, from_cache: bool, max_pages: int = 99):
    seeds = [Seed("s", f"{web.url}/", CrawlLimits("host", (), (), max_pages, 1 << 24, 9, 9))]
    policy = CrawlPolicy("", 0.0, 30.0, 1, 1.0, 1 << 20, ("127.0.0.1",))
    results = list(crawl(seeds, policy, extractor, state, ProgressReporter("crawl", "pages", None), {}, from_cache))
    mark_delivered(state)
    return results


def fill(web) -> None:
    web.html("/", "start", ("/a", "/empty", "/gone"))
    web.html("/a", "page a", ETag='"a"')
    web.pages["/empty"] = (200, {}, b"<nav>menu</nav>")


def test_a_new_extractor_rereads_cached_pages_without_requests(web, tmp_path) -> None:
    fill(web)
    before = crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
    web.requested_paths.clear()
    after = crawl_all(web, tmp_path, UPPERCASE_EXTRACTOR, from_cache=True)
    assert web.requested_paths == []
    assert [fetch.record and fetch.record.content.upper() for fetch in before] == [
        fetch.record and fetch.record.content for fetch in after
    ]
    assert [(fetch.url, fetch.state, fetch.reason, fetch.fetched_at) for fetch in before] == [
        (fetch.url, fetch.state, fetch.reason, fetch.fetched_at) for fetch in after
    ]


def test_a_new_extractor_can_find_text_in_an_empty_page(web, tmp_path) -> None:
    fill(web)
    assert {fetch.reason for fetch in crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)} == {"", "empty", "http-404"}
    everything = Extractor(TEXT_EXTRACTOR.media_types, lambda body, kind, url: ExtractedDocument(body, kind, {}, ()), "everything")
    assert {fetch.reason for fetch in crawl_all(web, tmp_path, everything, from_cache=True)} == {"", "http-404"}


def test_a_not_modified_page_is_extracted_again_by_a_new_extractor(web, tmp_path) -> None:
    fill(web)
    crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
    web.pages["/a"] = (304, {}, b"")
    result = {fetch.url: fetch for fetch in crawl_all(web, tmp_path, UPPERCASE_EXTRACTOR, from_cache=False)}[f"{web.url}/a"]
    assert (result.status, result.record.text) == (304, "PAGE A")


def test_the_archive_holds_every_page_of_a_crawl_unchanged(web, tmp_path) -> None:
    fill(web)
    crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
    assert read_archive(tmp_path / "warc") == {f"{web.url}{path}": web.pages[path][2] for path in ("/", "/a", "/empty")}


def test_an_identical_response_is_not_stored_twice(web, tmp_path) -> None:
    fill(web)
    crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
    size = (tmp_path / "warc" / "00000.warc.gz").stat().st_size
    crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
    assert (tmp_path / "warc" / "00000.warc.gz").stat().st_size == size


def test_pages_that_change_often_do_not_fill_the_disk(web, tmp_path) -> None:
    fill(web)
    sizes = []
    for number in range(8):
        web.html("/a", gzip.compress(str(number).encode()).hex() * 999)
        crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "warc").iterdir()))
    assert max(sizes) < 3 * sizes[0]


def test_from_cache_needs_a_crawl_of_the_same_config(web, tmp_path) -> None:
    with pytest.raises(ProvenlmError, match="from_cache: must be false for the first crawl"):
        crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=True)
    fill(web)
    crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=False)
    with pytest.raises(ProvenlmError, match="from_cache: "):
        crawl_all(web, tmp_path, TEXT_EXTRACTOR, from_cache=True, max_pages=5)
