"""Serve a web site on loopback that answers as a test specifies and records its requests."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.store import mark_delivered
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.extractor import Extractor
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR

CannedResponse = tuple[int, dict[str, str], bytes]


class LoopbackSite:
    """`pages[path]` is a response, a list of responses (one per request, the last repeated) or a function of the handler."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, object] = {}
        self.requested_paths: list[str] = []
        self.headers: dict[str, list[dict[str, str]]] = defaultdict(list)
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                web.requested_paths.append(self.path)
                web.headers[self.path].append(dict(self.headers.items()))
                page = web.pages.get(self.path, (404, {}, b""))
                if callable(page):
                    page(self)
                    return
                if isinstance(page, list):
                    page = page.pop(0) if len(page) > 1 else page[0]
                status, headers, body = page
                self.send_response(status)
                for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # a client that disconnects is expected
        self.url = f"http://{host}:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def html(self, path: str, text: str = "", links: tuple[str, ...] = (), **headers: str) -> None:
        anchors = "".join(f'<a href="{link}">.</a>' for link in links)
        body = f"<html><body><p>{text or path}</p>{anchors}</body></html>".encode()
        self.pages[path] = (200, {name.replace("_", "-"): value for name, value in headers.items()}, body)

    def robots(self, text: str) -> None:
        self.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"}, text.encode())

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web() -> Iterator[LoopbackSite]:
    site = LoopbackSite()
    yield site
    site.stop()


@pytest.fixture
def webs() -> Iterator[list[LoopbackSite]]:
    """Serve three sites on different hosts."""
    sites = [LoopbackSite(f"127.0.0.{number}") for number in (1, 2, 3)]
    yield sites
    for web in sites:
        web.stop()


@pytest.fixture
def other_web() -> Iterator[LoopbackSite]:
    site = LoopbackSite()
    yield site
    site.stop()


Crawl = Callable[..., dict[str, FetchResult]]


@pytest.fixture
def crawl_site(web: LoopbackSite, tmp_path: Path) -> Crawl:
    """Return a function that crawls `web`; keyword arguments replace fields of the limits and of the policy."""

    def run(
        start: str = "/", from_cache: bool = False, extractor: Extractor = TEXT_EXTRACTOR, **changed: object
    ) -> dict[str, FetchResult]:
        limits = {
            "scope": "host",
            "include": (),
            "exclude": (),
            "max_pages": 100,
            "max_bytes": 1 << 24,
            "max_depth": 9,
            "max_url_variants": 99,
        }
        policy = {
            "user_agent_contact": "", "download_delay_seconds": 0.0, "timeout_seconds": 5.0, "max_attempts": 3, "max_retry_after_seconds": 2.0,
            "max_response_bytes": 1 << 20, "allowed_private_hosts": ("127.0.0.1",),
        }  # fmt: skip
        limits |= {name: value for name, value in changed.items() if name in limits}
        policy |= {name: value for name, value in changed.items() if name in policy}
        seeds = [Seed(f"{web.url}{start}", f"{web.url}{start}", CrawlLimits(**limits))]
        fetches = crawl(
            seeds, CrawlPolicy(**policy), extractor, tmp_path / "state", ProgressReporter("crawl", "pages", None), {}, from_cache
        )
        results: dict[str, FetchResult] = {}
        for fetch in fetches:
            path = fetch.url.removeprefix(web.url)
            assert path not in results, f"{path} has two outcomes"
            results[path] = fetch
        mark_delivered(tmp_path / "state")
        return results

    return run
