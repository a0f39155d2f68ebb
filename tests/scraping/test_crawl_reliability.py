"""Test that a crawl is finished only when delivered, is used by one process at a time and names the fault of its disk."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provenlm.core import records
from provenlm.core.errors import DataError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.scraping import delivery
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.database import readable_errors
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR
from provenlm.scraping.state_folder import disk_advice, hold_lock, readable_disk_errors


def crawl_web(web, state: Path) -> list[FetchResult]:
    seeds = [Seed("s", f"{web.url}/", CrawlLimits("host"))]
    policy = CrawlPolicy("", 0.0, 30.0, 1, 1.0, 1 << 20, ("127.0.0.1",))
    return list(crawl(seeds, policy, TEXT_EXTRACTOR, state, ProgressReporter("crawl", "pages", None), {}, False))


@pytest.fixture
def site(web):
    web.html("/", "start", ("/a", "/b"))
    web.html("/a", "page a")
    web.html("/b", "page b")
    return web


def write_audit(folder: Path) -> Path:
    audit = folder / "scrape.json"
    audit.write_text('{"stage": "scrape"}', encoding="utf-8")
    return audit


def test_a_crawl_that_was_not_delivered_sends_no_request_again(site, tmp_path) -> None:
    first = crawl_web(site, tmp_path)
    site.requested_paths.clear()
    assert crawl_web(site, tmp_path) == first
    assert site.requested_paths == []


def test_a_delivered_crawl_is_followed_by_a_new_one(site, tmp_path) -> None:
    crawl_web(site, tmp_path)
    (tmp_path / ".tmp-1-scrape.json").touch()
    delivery.deliver(tmp_path, write_audit(tmp_path), by_dvc=False)
    site.requested_paths.clear()
    crawl_web(site, tmp_path)
    assert site.requested_paths == ["/robots.txt", "/sitemap.xml", "/", "/a", "/b"]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(("lock", "age", "requests"), [("no", 0, 0), ("md5", 0, 5), ("no", 7200, 5)])
def test_a_delivery_that_dvc_did_not_record_is_taken_again(site, tmp_path, lock: str, age: int, requests: int) -> None:
    crawl_web(site, tmp_path)
    delivery.deliver(tmp_path, write_audit(tmp_path), by_dvc=True)
    receipt = tmp_path / delivery.RECEIPT
    os.utime(receipt, (time.time() - age,) * 2)
    dvc_lock = tmp_path / "dvc.lock"
    dvc_lock.write_text(receipt.read_text() if lock == "md5" else "stages: {}", encoding="utf-8")
    delivery.reopen_unrecorded(tmp_path, dvc_lock)
    site.requested_paths.clear()
    crawl_web(site, tmp_path)
    assert len(site.requested_paths) == requests


def test_the_previous_records_are_kept_until_the_delivery(tmp_path) -> None:
    state_dir, records_dir = tmp_path / "state", tmp_path / "scraped"
    old, new = (Record.from_content(text, "text/plain", "u") for text in (b"old", b"new"))
    records.write_records([old], records_dir)
    assert delivery.previous_ids(state_dir, records_dir) == {"u": old.id}
    records.write_records([new], records_dir)
    assert delivery.previous_ids(state_dir, records_dir) == {"u": old.id}
    delivery.deliver(state_dir, write_audit(tmp_path), by_dvc=False)
    assert delivery.previous_ids(state_dir, records_dir) == {"u": new.id}


def test_a_second_process_is_locked_out_with_the_pid_of_the_first(site, tmp_path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from provenlm.scraping.state_folder import hold_lock\n"
        "with hold_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    root = str(Path(__file__).resolve().parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "crawl.lock"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(DataError, match=f"in use by process {holder.pid}; wait until it ends"):
        crawl_web(site, tmp_path)
    holder.kill()
    holder.communicate()
    assert len(crawl_web(site, tmp_path)) == 3


def test_a_folder_is_unlocked_after_an_error(tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="planted"), hold_lock(tmp_path / "lock"):
            raise ValueError("planted")


def damage_page(database: Path) -> None:
    with sqlite3.connect(database) as db:
        db.execute("update pages set content = ? where url like '%/a'", (b"no zlib",))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_page, "damaged at the page .*/a; delete the file"),
        (lambda path: path.write_bytes(b"no database at all " * 99), "damaged: file is not a database; delete the file"),
        (lambda path: path.write_bytes(path.read_bytes()[:20000]), "damaged: .*; delete the file"),
    ],
)
def test_a_damaged_state_is_named_in_one_line(site, tmp_path, damage, message: str) -> None:
    crawl_web(site, tmp_path)
    damage(tmp_path / "crawl.sqlite")
    with pytest.raises(DataError, match=f"^[^\n]*crawl.sqlite: {message} to crawl again$"):
        crawl_web(site, tmp_path)


def test_a_database_that_takes_no_write_is_never_to_be_deleted(tmp_path) -> None:
    with sqlite3.connect(tmp_path / "crawl.sqlite") as db:
        db.executescript("pragma page_size = 512; create table t (x); pragma max_page_count = 3")
        with pytest.raises(DataError) as caught, readable_errors(tmp_path):
            db.execute("insert into t values (zeroblob(9999))")
    assert "full" in str(caught.value)
    assert "delete" not in str(caught.value)


def test_a_write_error_names_file_and_cause(tmp_path) -> None:
    with pytest.raises(DataError, match="/a/b: No space left on device; "), readable_disk_errors(tmp_path):
        raise OSError(28, "No space left on device", "/a/b")


def test_a_full_disk_is_called_a_full_disk() -> None:
    assert disk_advice(Path("/proc/self")).startswith("the disk is full (0 bytes are free)")
    assert "full" not in disk_advice(Path.cwd() / "no_such_folder")


def test_damaged_previous_records_count_as_none(tmp_path) -> None:
    assert delivery.previous_ids(tmp_path, tmp_path / "none") == {}
    (tmp_path / "previous/00000.parquet").write_bytes(b"cut")
    assert delivery.previous_ids(tmp_path, tmp_path / "none") == {}
    assert records.read_ids_by_source(tmp_path / "previous") == {}
