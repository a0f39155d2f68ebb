"""Run the child process that renders and serves pydoc pages over loopback HTTP.

Its arguments are package names; it prints its port and exits when its standard input closes, that is, with its parent.
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
class PydocPage:
    """Hold one page; `rendered` is set when `status` and `body` are final."""

    status: int = 200
    body: bytes = b""
    media_type: str = "text/html; charset=utf-8"
    last_modified: int = 0
    rendered: threading.Event = field(default_factory=threading.Event)

    @property
    def etag(self) -> str:
        """Return the entity tag, a hash of the body."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    def publish(self, body: str, status: int = 200, last_modified: float = 0) -> None:
        """Set the final content of the page."""
        self.body, self.status, self.last_modified = body.encode("utf-8", "replace"), status, int(last_modified)
        self.rendered.set()


class PydocSite:
    """Hold the pages by path.

    Index pages are final at once, module pages after `render_all`.
    """

    def __init__(self, packages: list[str]) -> None:
        self.module_names = {package: modules.list_modules(package) for package in packages}
        self.topics = self._topics() if modules.STDLIB in packages else {}
        self.urls = {name: f"/{package}/{name}.html" for package, names in self.module_names.items() for name in names}
        self.pages = {url: PydocPage() for url in [*self.urls.values(), *self.topics]}
        self._publish("/robots.txt", self._robots(), "text/plain; charset=utf-8")
        self._publish("/sitemap.xml", self._sitemap(), "application/xml")
        for package in packages:
            self._publish(f"/{package}/", self._package_index(package), "text/html; charset=utf-8")

    def _publish(self, path: str, body: str, media_type: str) -> None:
        self.pages[path] = PydocPage(media_type=media_type)
        self.pages[path].publish(body)

    def _topics(self) -> dict[str, tuple[str, str]]:
        texts = importlib.import_module(modules.TOPICS).topics
        return {f"/{modules.STDLIB}/topics/{name}.html": (name, texts[name]) for name in sorted(texts)}

    def _robots(self) -> str:
        disallow_lines = "".join(
            f"Disallow: /{modules.STDLIB}/{name}.html  # {reason}\n" for name, reason in modules.SIDE_EFFECT_MODULES.items()
        )
        return f"User-agent: *\n{disallow_lines}\nSitemap: http://pydoc.localhost/sitemap.xml\n"

    def _sitemap(self) -> str:
        urls = [*self.urls.values(), *self.topics]
        lines = "".join(f"<url><loc>http://pydoc.localhost{html.escape(url)}</loc></url>\n" for url in urls)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{lines}</urlset>\n'

    def _package_index(self, package: str) -> str:
        links = [(self.urls[name], name) for name in self.module_names[package]]
        if package == modules.STDLIB:
            links += [(url, name) for url, (name, _) in self.topics.items()]
            links += [(f"/{package}/{name}.html", name) for name in modules.SIDE_EFFECT_MODULES]
        items = "".join(f'<li><a href="{html.escape(url)}">{html.escape(name)}</a></li>\n' for url, name in links)
        head = f'<meta charset="utf-8"><meta name="robots" content="noindex"><title>{html.escape(package)}</title>'
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><ul>\n{items}</ul></body></html>\n'

    def render_all(self) -> None:
        """Import and render every module.

        A module that fails gets status 404 and the reason.
        """
        imported = {name: _import_module(name) for names in self.module_names.values() for name in names}
        for name, module in imported.items():
            page = self.pages[self.urls[name]]
            if isinstance(module, BaseException):
                page.publish(f"{name}: {type(module).__name__}: {module}\n", 404)
                continue
            try:
                with guard.guarded(PAGE_SECONDS):
                    page.publish(render.render_module(module, self.urls), 200, _modified_time(module))
            except BaseException as error:
                page.publish(f"{name}: {type(error).__name__}: {error}\n", 404)
        for url, (name, text) in self.topics.items():
            self.pages[url].publish(render.render_topic(name, text))


def _import_module(name: str) -> Any:
    """Import a module, or return the exception that it raises, also SystemExit."""
    try:
        with guard.guarded(IMPORT_SECONDS):
            return importlib.import_module(name)
    except BaseException as error:
        return error


def _modified_time(module: Any) -> float:
    file = getattr(module, "__file__", None) or sys.executable
    return Path(file).stat().st_mtime


class PydocHandler(BaseHTTPRequestHandler):
    """Answer GET and HEAD with ETag, Last-Modified and 304 (RFC 9110, section 13)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise the body waits for the acknowledgement of the header
    site: PydocSite

    def do_GET(self) -> None:
        """Answer GET and HEAD once the page is rendered."""
        page = self.site.pages.get(self.path)
        if page is None:
            page = PydocPage()
            page.publish("no such page\n", 404)
        page.rendered.wait()
        not_modified = page.status == 200 and self._client_has(page)
        self.send_response(304 if not_modified else page.status)
        if page.status == 200:
            self.send_header("ETag", page.etag)
            if page.last_modified:
                self.send_header("Last-Modified", formatdate(page.last_modified, usegmt=True))
        if not not_modified:
            self.send_header("Content-Type", page.media_type if page.status == 200 else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if not not_modified and self.command == "GET":
            self.wfile.write(page.body)

    do_HEAD = do_GET

    def _client_has(self, page: PydocPage) -> bool:
        """Return whether the client has this version; If-None-Match takes precedence."""
        if (tags := self.headers.get("If-None-Match")) is not None:
            return page.etag in tags
        since = self.headers.get("If-Modified-Since")
        try:
            return bool(since and page.last_modified) and page.last_modified <= parsedate_to_datetime(since or "").timestamp()
        except ValueError:
            return False

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Log nothing: the crawler keeps a log."""


def _exit_with_parent(parent_fd: int) -> None:
    while os.read(parent_fd, 4096):
        pass
    os._exit(0)


def main(packages: list[str]) -> None:
    """Serve until standard input ends.

    The first line on standard output is JSON: a port, or an error.
    """
    os.environ.pop("PYTHONPATH", None)  # pages show the environment, and this variable contains a path
    parent_fd, report_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # imported modules read and print nothing, even from C code
        os.dup2(null, number)
    threading.Thread(target=_exit_with_parent, args=(parent_fd,), daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), PydocHandler)
    server.daemon_threads = True
    guard.install_audit_hook()
    try:
        PydocHandler.site = PydocSite(packages)
        message: dict[str, Any] = {"port": server.server_address[1]}
    except Exception as error:
        message = {"error": str(error)}
    os.write(report_fd, json.dumps(message).encode() + b"\n")
    os.close(report_fd)
    if "port" in message:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        PydocHandler.site.render_all()  # in the main thread: only there can a signal interrupt
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
