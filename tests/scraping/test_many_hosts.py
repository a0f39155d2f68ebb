"""Test a crawl of several loopback hosts at once."""

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.database import mark_delivered
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR

LOOPBACK = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


def crawl_all(webs: list, state: Path, delay: float = 0.0, **changed: object) -> list[FetchResult]:
    limits = {
        "scope": "host",
        "include": (),
        "exclude": (),
        "max_pages": 100,
        "max_bytes": 1 << 24,
        "max_depth": 9,
        "max_url_variants": 99,
    }
    seeds = [Seed(f"{web.url}/", f"{web.url}/", CrawlLimits(**(limits | changed)), group) for group, web in enumerate(webs)]
    policy = CrawlPolicy("", delay, 60.0, 1, 1.0, 1 << 20, LOOPBACK)
    results = list(crawl(seeds, policy, TEXT_EXTRACTOR, state, ProgressReporter("crawl", "pages", None), {}, False))
    mark_delivered(state)
    return results


def fill(web, pages: int = 5, links: tuple[str, ...] = ()) -> None:
    web.html("/", "start", (*(f"/{number}" for number in range(pages)), *links))
    for number in range(pages):
        web.html(f"/{number}", f"page {number}")


def test_hosts_are_crawled_concurrently(webs, tmp_path) -> None:
    meeting = threading.Barrier(3)
    for web in webs:
        fill(web)

        def waits(handler, page=web.pages["/3"]) -> None:
            meeting.wait(60)  # no host answers before all three have a request
            handler.send_response(200)
            handler.send_header("Content-Type", "text/html")
            handler.send_header("Content-Length", str(len(page[2])))
            handler.end_headers()
            handler.wfile.write(page[2])

        web.pages["/3"] = waits
    assert sum(fetch.state == "record" for fetch in crawl_all(webs, tmp_path)) == 18


def test_each_host_gets_one_request_at_a_time_with_its_own_delay(webs, tmp_path) -> None:
    times: dict[str, list[tuple[float, float]]] = {web.url: [] for web in webs}
    for web in webs:
        fill(web, 4)
        for path in ("/", "/0", "/1", "/2", "/3"):

            def respond(handler, body=web.pages[path][2], intervals=times[web.url]) -> None:
                began = time.monotonic()
                time.sleep(0.02)
                handler.send_response(200)
                handler.send_header("Content-Type", "text/html")
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                intervals.append((began, time.monotonic()))
                handler.wfile.write(body)

            web.pages[path] = respond
    crawl_all(webs, tmp_path, delay=0.3)
    for intervals in times.values():
        assert len(intervals) == 5
        assert all(after[0] - before[0] > 0.15 and after[0] >= before[1] for before, after in pairwise(intervals))


def test_results_do_not_depend_on_which_host_is_faster(webs, tmp_path) -> None:
    outcomes = []
    for slow in (0, 2):
        for index, web in enumerate(webs):
            neighbour = webs[(index + 1) % 3].url
            fill(web, 5, (f"{neighbour}/hidden", "http://elsewhere.invalid/"))
            web.html("/hidden", f"named by a neighbour {index}", ("/deeper",))
            web.html("/deeper", f"deeper {index}")
            if index == slow:
                page = web.pages["/"]

                def late(handler, page=page) -> None:
                    time.sleep(0.5)
                    handler.send_response(200)
                    handler.send_header("Content-Type", "text/html")
                    handler.send_header("Content-Length", str(len(page[2])))
                    handler.end_headers()
                    handler.wfile.write(page[2])

                web.pages["/"] = late
        outcomes.append(
            [
                (fetch.url, fetch.state, fetch.reason, fetch.record and fetch.record.id)
                for fetch in crawl_all(webs, tmp_path / str(slow))
            ]
        )
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 3 * 8 + 1
    assert [outcome[:3] for outcome in outcomes[0]].count(("http://elsewhere.invalid/", "skipped", "off-site")) == 1


def test_budgets_apply_per_host(webs, tmp_path) -> None:
    for web in webs:
        fill(web)
    results = crawl_all(webs, tmp_path, max_pages=2)
    assert [sum(fetch.state == "record" and fetch.url.startswith(web.url) for fetch in results) for web in webs] == [2, 2, 2]


def test_a_host_that_stops_responding_delays_no_other(webs, tmp_path) -> None:
    for web in webs:
        fill(web, 12)

    def dies(handler) -> None:
        handler.close_connection = True

    for number in range(3, 12):
        webs[1].pages[f"/{number}"] = dies
    results = crawl_all(webs, tmp_path)
    assert [sum(fetch.state == "record" and fetch.url.startswith(web.url) for fetch in results) for web in webs] == [13, 4, 13]
    assert {fetch.reason for fetch in results if fetch.state == "failed"} == {"connection", "host-silent"}


def test_an_unavailable_start_url_ends_the_whole_crawl(webs, tmp_path) -> None:
    fill(webs[0])
    fill(webs[1])
    with pytest.raises(ProvenlmError, match="start_urls: http://127.0.0.3:.*http-404"):
        crawl_all(webs, tmp_path)
