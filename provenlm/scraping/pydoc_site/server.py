"""The child process: package names in on the command line, a port out on standard output, then their pages over loopback HTTP.

It ends when its standard input does, that is, with its parent.
"""

import hashlib
import html
import importlib
import json
import os
import sys
import threading
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from provenlm.scraping.pydoc_site import guard, modules, render

IMPORT_SECONDS = 20.0
PAGE_SECONDS = 20.0


@dataclass
class Page:
    """One page; `ready` is set when `status` and `body` are known."""

    status: int = 200
    body: bytes = b""
    media_type: str = "text/html; charset=utf-8"
    modified: int = 0
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    def set(self, body: str, status: int = 200, modified: float = 0) -> None:
        self.body, self.status, self.modified = body.encode("utf-8", "replace"), status, int(modified)
        self.ready.set()


class Site:
    """The pages by path. Lists are ready at once; a module's page when `render_all` has come to it."""

    def __init__(self, packages: list[str]) -> None:
        self.listed = {package: modules.modules_of(package) for package in packages}
        self.topics = self._topics() if modules.STDLIB in packages else {}
        self.urls = {name: f"/{package}/{name}.html" for package, names in self.listed.items() for name in names}
        self.pages = {url: Page() for url in [*self.urls.values(), *self.topics]}
        self._ready("/robots.txt", self._robots(), "text/plain; charset=utf-8")
        self._ready("/sitemap.xml", self._sitemap(), "application/xml")
        for package in packages:
            self._ready(f"/{package}/", self._index(package), "text/html; charset=utf-8")

    def _ready(self, path: str, body: str, media_type: str) -> None:
        self.pages[path] = Page(media_type=media_type)
        self.pages[path].set(body)

    def _topics(self) -> dict[str, tuple[str, str]]:
        texts = importlib.import_module(modules.TOPICS).topics
        return {f"/{modules.STDLIB}/topics/{name}.html": (name, texts[name]) for name in sorted(texts)}

    def _robots(self) -> str:
        acting = "".join(f"Disallow: /{modules.STDLIB}/{name}.html  # {why}\n" for name, why in modules.ACTING.items())
        return f"User-agent: *\n{acting}\nSitemap: http://pydoc.localhost/sitemap.xml\n"

    def _sitemap(self) -> str:
        urls = [*self.urls.values(), *self.topics]
        lines = "".join(f"<url><loc>http://pydoc.localhost{html.escape(url)}</loc></url>\n" for url in urls)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{lines}</urlset>\n'

    def _index(self, package: str) -> str:
        links = [(self.urls[name], name) for name in self.listed[package]]
        if package == modules.STDLIB:
            links += [(url, name) for url, (name, _) in self.topics.items()]
            links += [(f"/{package}/{name}.html", name) for name in modules.ACTING]
        items = "".join(f'<li><a href="{html.escape(url)}">{html.escape(name)}</a></li>\n' for url, name in links)
        head = f'<meta charset="utf-8"><meta name="robots" content="noindex"><title>{html.escape(package)}</title>'
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><ul>\n{items}</ul></body></html>\n'

    def render_all(self) -> None:
        """Import every listed module, then render page by page. What fails is a page that is not there, with the reason."""
        found = {name: _import(name) for names in self.listed.values() for name in names}
        for name, module in found.items():
            page = self.pages[self.urls[name]]
            if isinstance(module, BaseException):
                page.set(f"{name}: {type(module).__name__}: {module}\n", 404)
                continue
            try:
                with guard.watched(PAGE_SECONDS):
                    page.set(render.page(module, self.urls), 200, _modified(module))
            except BaseException as error:
                page.set(f"{name}: {type(error).__name__}: {error}\n", 404)
        for url, (name, text) in self.topics.items():
            self.pages[url].set(render.topic_page(name, text))


def _import(name: str) -> Any:
    """The module, or what went wrong: whatever a foreign module raises, `SystemExit` too, must not end the site."""
    try:
        with guard.watched(IMPORT_SECONDS):
            return importlib.import_module(name)
    except BaseException as error:
        return error


def _modified(module: Any) -> float:
    file = getattr(module, "__file__", None) or sys.executable
    return Path(file).stat().st_mtime


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD with ETag, Last-Modified and 304 (RFC 9110, section 13)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits for the header's acknowledgement
    site: Site

    def do_GET(self) -> None:
        page = self.site.pages.get(self.path)
        if page is None:
            page = Page()
            page.set("there is no such page\n", 404)
        page.ready.wait()
        fresh = page.status == 200 and self._has(page)
        self.send_response(304 if fresh else page.status)
        if page.status == 200:
            self.send_header("ETag", page.etag)
            if page.modified:
                self.send_header("Last-Modified", formatdate(page.modified, usegmt=True))
        if not fresh:
            self.send_header("Content-Type", page.media_type if page.status == 200 else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if not fresh and self.command == "GET":
            self.wfile.write(page.body)

    do_HEAD = do_GET

    def _has(self, page: Page) -> bool:
        """Does the client hold this version? If-None-Match decides alone where it is given."""
        if (tags := self.headers.get("If-None-Match")) is not None:
            return page.etag in tags
        since = self.headers.get("If-Modified-Since")
        try:
            return bool(since and page.modified) and page.modified <= parsedate_to_datetime(since or "").timestamp()
        except ValueError:
            return False

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Quiet: the crawler keeps the log."""


def _end_with(parent: int) -> None:
    while os.read(parent, 4096):
        pass
    os._exit(0)


def main(packages: list[str]) -> None:
    """Serve until standard input ends. The first line on standard output is JSON: a port, or an error."""
    os.environ.pop("PYTHONPATH", None)  # pages show the environment, and this alone of it is a path
    parent, report = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what an imported module reads or prints, below Python too, goes nowhere
        os.dup2(null, number)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    guard.install()
    try:
        Handler.site = Site(packages)
        said: dict[str, Any] = {"port": server.server_address[1]}
    except Exception as error:
        said = {"error": str(error)}
    os.write(report, json.dumps(said).encode() + b"\n")
    os.close(report)
    if "port" in said:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Handler.site.render_all()  # in the main thread: only there can a limit of time interrupt
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
