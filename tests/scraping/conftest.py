"""A web site on loopback that answers exactly as a test says, and remembers what it was asked."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provenlm.core.progress import Progress
from provenlm.core.records import Fetch
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import Manners
from provenlm.scraping.crawl.urls import Bounds, Site
from provenlm.scraping.extraction.reader import TEXT, Reader

Answer = tuple[int, dict[str, str], bytes]


class Web:
    """`pages[path]` is an answer, a list of answers (one a request, the last again and again) or a function of the handler."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.pages: dict[str, object] = {}
        self.asked: list[str] = []
        self.headers: dict[str, list[dict[str, str]]] = defaultdict(list)
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                web.asked.append(self.path)
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
        self.server.handle_error = lambda *arguments: None  # a client that hangs up is no news here
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
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.stop()


@pytest.fixture
def webs() -> Iterator[list[Web]]:
    """Three hosts."""
    made = [Web(f"127.0.0.{number}") for number in (1, 2, 3)]
    yield made
    for web in made:
        web.stop()


@pytest.fixture
def other_web() -> Iterator[Web]:
    made = Web()
    yield made
    made.stop()


Crawl = Callable[..., dict[str, Fetch]]


@pytest.fixture
def crawling(web: Web, tmp_path: Path) -> Crawl:
    """Crawl `web` from `/`; the fates by path. Named arguments replace a bound or a manner."""

    def run(start: str = "/", offline: bool = False, reader: Reader = TEXT, **changed: object) -> dict[str, Fetch]:
        bounds = {
            "scope": "host",
            "include": (),
            "exclude": (),
            "max_pages": 100,
            "max_bytes": 1 << 24,
            "max_depth": 9,
            "max_variants": 99,
        }
        manners = {
            "contact": "", "delay_seconds": 0.0, "timeout_seconds": 5.0, "tries": 3, "max_wait_seconds": 2.0,
            "max_page_bytes": 1 << 20, "allow_private": ("127.0.0.1",),
        }  # fmt: skip
        bounds |= {name: value for name, value in changed.items() if name in bounds}
        manners |= {name: value for name, value in changed.items() if name in manners}
        sites = [Site(f"{web.url}{start}", f"{web.url}{start}", Bounds(**bounds))]
        found = crawl(sites, Manners(**manners), reader, tmp_path / "state", Progress("crawl", "pages", None), {}, offline)
        fates: dict[str, Fetch] = {}
        for fetch in found:
            path = fetch.url.removeprefix(web.url)
            assert path not in fates, f"{path} ended twice"
            fates[path] = fetch
        return fates

    return run
