"""Addresses in, one canonical spelling of each out, and the site to which it belongs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin, urlsplit, urlunsplit

from requests.utils import requote_uri

PORTS = {"http": 80, "https": 443}
MAX_LENGTH = 2048  # characters; longer ones are traps more often than pages
SESSION_PATH = re.compile(r";(jsessionid|sid|phpsessid)=[^/?#;]*", re.IGNORECASE)
SESSION = re.compile(
    r"(jsessionid|phpsessid|aspsessionid\w*|asp\.net_sessionid|cfid|cftoken|utm_\w+|gclid|fbclid|mc_[ce]id)=.*"
    r"|(sid|session|sessionid|session_id|sess|s)=[0-9a-f-]{16,}",
    re.IGNORECASE,
)
PATH = r"(?:[\w-][\w.-]*/)*(?:[\w-][\w.-]*)?"  # without empty and dot segments
RELATIVE = re.compile(rf"((?:\.\./)*)(/?{PATH})", re.ASCII)
ABSOLUTE = re.compile(rf"https?://(?:[a-z0-9][a-z0-9-]{{0,61}}\.)*[a-z][a-z0-9-]{{0,61}}/{PATH}", re.ASCII)
REPEATED = re.compile(r"(?=/)((?:/[^/]+)+)\1\1(?=/|$)")  # the same folders three times in a row: a relative link that went wrong


def canonical(url: str, base: str = "") -> str | None:
    """`url`, seen on the page `base`, in one spelling (RFC 3986, section 6.2): no fragment, default port or dot segments.

    The order of a query is kept: it may mean something. What only names a visitor's session or campaign is left out: every visit would
    bring another. None for what a crawler does not follow: other schemes, user names, nonsense.
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
    path, query = _without_dots(SESSION_PATH.sub("", parts.path)), _without_session(parts.query)
    whole = requote_uri(urlunsplit((parts.scheme, authority, path, query, "")))
    return re.sub(r"%[0-9a-fA-F]{2}", lambda escape: escape[0].upper(), whole)


def seen_from(base: str) -> Callable[[str], str | None]:
    """`canonical` for many links of the page at the canonical address `base`: most are plain paths, which need no parsing."""
    parts = urlsplit(base)
    root = f"{parts.scheme}://{parts.netloc}"
    folders = parts.path.split("/")[:-1]  # the first is empty

    def address(link: str) -> str | None:
        if ABSOLUTE.fullmatch(link):
            return link
        plain = RELATIVE.fullmatch(link) if link and "" not in folders[1:] else None
        up, path = plain.groups() if plain else ("", "")
        if not plain or (up and path.startswith("/")):
            return canonical(link, base)
        return root + (path if path.startswith("/") else f"{'/'.join(folders[: max(1, len(folders) - len(up) // 3)])}/{path}")

    return address


def _without_session(query: str) -> str:
    return "&".join(part for part in query.split("&") if not SESSION.fullmatch(part)) if query else ""


def host(url: str) -> str:
    """The host of a canonical address, whatever its scheme and port: what is asked one thing at a time."""
    return urlsplit(url).hostname or ""


def origin(url: str) -> str:
    """Scheme and authority of a canonical address: what a robots.txt speaks about."""
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
    max_pages: int  # records of each host: hosts are asked at once, and none may take what another leaves
    max_bytes: int  # of pages of each host, decompressed
    max_depth: int  # links followed one after the other from a start, or from an address that a sitemap lists
    max_variants: int  # addresses that differ in their query or date alone: a search form or a calendar has no end

    def __post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        if self.max_pages < 1 or self.max_bytes < 1 or self.max_variants < 1:
            raise ValueError("max_pages, max_bytes and max_variants must be at least 1")
        if self.max_depth < 0:
            raise ValueError("max_depth must not be negative; 0 follows no link")


@dataclass(frozen=True, slots=True)
class Site:
    """One start of a crawl: as the user named it, its canonical address, its bounds.

    Starts of one `group` share their budgets. What a `feed` once listed stays, though it lists it no more.
    """

    name: str
    url: str
    bounds: Bounds
    group: int = 0
    feed: bool = False

    def holds(self, url: str, scope: Literal["folder", "host"]) -> bool:
        """Is `url` on the same scheme and authority and, by `scope`, at or below the folder of the start?"""
        folder = urlsplit(self.url).path.rpartition("/")[0] + "/" if scope == "folder" else "/"
        return origin(url) == origin(self.url) and (urlsplit(url).path.startswith(folder) or url == self.url)


def belongs(url: str, sites: Sequence[Site]) -> tuple[str, str]:
    """The name of the site that holds `url`, and "" or the reason why it is not for this crawl."""
    if len(url) > MAX_LENGTH:
        return "", "url-length"
    folder = next((site for site in sites if site.holds(url, "folder")), None)
    site = folder or next((site for site in sites if site.holds(url, site.bounds.scope)), None)
    if site is None:
        return "", "out-of-scope" if origin(url) in {origin(other.url) for other in sites} else "off-site"
    if url in {other.url for other in sites}:
        return site.name, ""
    if site.bounds.include and not any(re.search(pattern, url) for pattern in site.bounds.include):
        return site.name, "not-included"
    if any(re.search(pattern, url) for pattern in site.bounds.exclude):
        return site.name, "excluded"
    if REPEATED.search(urlsplit(url).path):
        return site.name, "trap-repetition"
    return site.name, ""
