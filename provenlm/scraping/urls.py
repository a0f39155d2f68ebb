"""Addresses in, one canonical spelling of each out, and the site to which it belongs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin, urlsplit, urlunsplit

from requests.utils import requote_uri

PORTS = {"http": 80, "https": 443}
MAX_LENGTH = 2048  # characters; longer ones are traps more often than pages


def canonical(url: str, base: str = "") -> str | None:
    """`url`, seen on the page `base`, in one spelling (RFC 3986, section 6.2): no fragment, default port or dot segments.

    The order of a query is kept: it may mean something. None for what a crawler does not follow: other schemes, user names, nonsense.
    """
    try:
        parts = urlsplit(urljoin(base, re.sub(r"[\t\r\n]", "", url).strip()))
        port = parts.port
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii") if parts.hostname else ""
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in PORTS or not host or parts.username is not None or parts.password is not None:
        return None
    host = f"[{host}]" if ":" in host else host
    authority = host if port in (None, PORTS[parts.scheme]) else f"{host}:{port}"
    whole = requote_uri(urlunsplit((parts.scheme, authority, _without_dots(parts.path), parts.query, "")))
    return re.sub(r"%[0-9a-fA-F]{2}", lambda escape: escape[0].upper(), whole)


def origin(url: str) -> str:
    """Scheme and authority of a canonical address: what robots.txt and politeness speak about."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    out: list[str] = []
    segments = path.split("/")[1:] if path.startswith("/") else path.split("/")
    for segment in segments:
        if segment == "..":
            out = out[:-1]
        elif segment != ".":
            out.append(segment)
    tail = "/" if segments[-1] in (".", "..") and out else ""
    return "/" + "/".join(out) + tail


@dataclass(frozen=True)
class Bounds:
    """Which addresses belong to a crawl, and how much of them is taken."""

    scope: Literal["folder", "host"]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    max_pages: int
    max_bytes: int
    max_depth: int  # links followed one after the other from a start, or from an address that a sitemap lists

    def __post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        if self.max_pages < 1 or self.max_bytes < 1:
            raise ValueError("max_pages and max_bytes must be at least 1")
        if self.max_depth < 0:
            raise ValueError("max_depth must not be negative; 0 follows no link")


@dataclass(frozen=True, slots=True)
class Site:
    """One start of a crawl: as the user named it, and its canonical address."""

    name: str
    url: str

    def holds(self, url: str, scope: Literal["folder", "host"]) -> bool:
        """Is `url` on the same scheme and authority and, by `scope`, at or below the folder of the start?"""
        folder = urlsplit(self.url).path.rpartition("/")[0] + "/" if scope == "folder" else "/"
        return origin(url) == origin(self.url) and (urlsplit(url).path.startswith(folder) or url == self.url)


def belongs(url: str, sites: Sequence[Site], bounds: Bounds) -> tuple[str, str]:
    """The name of the site that holds `url`, and "" or the reason why it is not for this crawl."""
    if len(url) > MAX_LENGTH:
        return "", "url-length"
    held = [site for scope in ("folder", bounds.scope) for site in sites if site.holds(url, scope)]
    site = held[0] if held else None
    if site is None:
        return "", "out-of-scope" if origin(url) in {origin(other.url) for other in sites} else "off-site"
    if url in {other.url for other in sites}:
        return site.name, ""
    if bounds.include and not any(re.search(pattern, url) for pattern in bounds.include):
        return site.name, "not-included"
    if any(re.search(pattern, url) for pattern in bounds.exclude):
        return site.name, "excluded"
    return site.name, ""
