"""Normalize URLs and decide which of them belong to a crawl."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin, urlsplit, urlunsplit

from requests.utils import requote_uri

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARS = 2048  # longer URLs are traps more often than pages
SESSION_PATH = re.compile(r";(jsessionid|sid|phpsessid)=[^/?#;]*", re.IGNORECASE)
SESSION_PARAMETER = re.compile(
    r"(jsessionid|phpsessid|aspsessionid\w*|asp\.net_sessionid|cfid|cftoken|utm_\w+|gclid|fbclid|mc_[ce]id)=.*"
    r"|(sid|session|sessionid|session_id|sess|s)=[0-9a-f-]{16,}",
    re.IGNORECASE,
)
PATH = r"(?:[\w-][\w.-]*/)*(?:[\w-][\w.-]*)?"  # without empty and dot segments
RELATIVE_URL = re.compile(rf"((?:\.\./)*)(/?{PATH})", re.ASCII)
ABSOLUTE_URL = re.compile(rf"https?://(?:[a-z0-9][a-z0-9-]{{0,61}}\.)*[a-z][a-z0-9-]{{0,61}}/{PATH}", re.ASCII)
REPEATED_FOLDERS = re.compile(r"(?=/)((?:/[^/]+)+)\1\1(?=/|$)")  # the same folders three times in a row: a broken relative link


def normalize_url(url: str, base: str = "") -> str | None:
    """Normalize `url`, a link of the page `base` (RFC 3986, section 6.2).

    Removes fragment, default port and dot segments. The order of the query is kept, because it may matter. Parameters that
    only identify a session or a campaign are removed, because every visit would add another. Returns None for URLs that a
    crawler does not follow: other schemes, user names, malformed URLs.
    """
    try:
        parts = urlsplit(urljoin(base, re.sub(r"[\t\r\n]", "", url).strip()))
        port = parts.port
        host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii") if parts.hostname else ""
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in DEFAULT_PORTS or not host or parts.username is not None or parts.password is not None:
        return None
    host = f"[{host}]" if ":" in host else host
    authority = host if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    path, query = _remove_dot_segments(SESSION_PATH.sub("", parts.path)), _strip_session(parts.query)
    normalized = requote_uri(urlunsplit((parts.scheme, authority, path, query, "")))
    return re.sub(r"%[0-9a-fA-F]{2}", lambda escape: escape[0].upper(), normalized)


def link_normalizer(base: str) -> Callable[[str], str | None]:
    """Return a faster `normalize_url` for the links of the page `base`.

    Most links are plain paths, which need no parsing.
    """
    parts = urlsplit(base)
    root = f"{parts.scheme}://{parts.netloc}"
    folders = parts.path.split("/")[:-1]  # the first is empty

    def normalize(link: str) -> str | None:
        if ABSOLUTE_URL.fullmatch(link):
            return link
        match = RELATIVE_URL.fullmatch(link) if link and "" not in folders[1:] else None
        parents, path = match.groups() if match else ("", "")
        if not match or (parents and path.startswith("/")):
            return normalize_url(link, base)
        return root + (path if path.startswith("/") else f"{'/'.join(folders[: max(1, len(folders) - len(parents) // 3)])}/{path}")

    return normalize


def _strip_session(query: str) -> str:
    return "&".join(part for part in query.split("&") if not SESSION_PARAMETER.fullmatch(part)) if query else ""


def url_host(url: str) -> str:
    """Return the host of a normalized URL, without its port."""
    return urlsplit(url).hostname or ""


def url_origin(url: str) -> str:
    """Return scheme and authority of a normalized URL: the scope of robots.txt."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _remove_dot_segments(path: str) -> str:
    """Remove dot segments from a path (RFC 3986, section 5.2.4)."""
    kept_segments: list[str] = []
    segments = path.split("/")[1:] if path.startswith("/") else path.split("/")
    for segment in segments:
        if segment == "..":
            kept_segments = kept_segments[:-1]
        elif segment != ".":
            kept_segments.append(segment)
    tail = "/" if segments[-1] in (".", "..") and kept_segments else ""
    return "/" + "/".join(kept_segments) + tail


@dataclass(frozen=True)
class CrawlLimits:
    """Configure which URLs belong to a crawl and how many of them are fetched."""

    scope: Literal["folder", "host"] = "folder"  # in or below the folder of a start URL, or its whole host
    include: tuple[str, ...] = ()  # regular expressions; if any are given, one must match the URL
    exclude: tuple[str, ...] = ()  # regular expressions; none may match the URL
    max_pages: int = 2000  # records of each host; per host, so that the result does not depend on which host is faster
    max_bytes: int = 100_000_000  # decoded bytes of the pages of each host
    max_depth: int = 10  # links in a row from a start URL or from a URL of a sitemap
    max_url_variants: int = 1000  # URLs that differ only in query or date (search forms, calendars)

    def __post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"include and exclude must be regular expressions, got {pattern!r}: {error}") from None
        for name in ("max_pages", "max_bytes", "max_url_variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.max_depth < 0:
            raise ValueError(f"max_depth must be >= 0 (0: follow no link), got {self.max_depth}")


@dataclass(frozen=True)
class FeedLimits(CrawlLimits):
    """Configure a feed: by default its entries on the same host, but not their links."""

    scope: Literal["folder", "host"] = "host"
    max_depth: int = 1


@dataclass(frozen=True, slots=True)
class Seed:
    """Hold a start URL: its name in params.yaml, its normalized URL and its limits.

    Seeds of one `budget_group` share `max_pages` and `max_bytes`. Pages that a feed listed in an earlier crawl are fetched
    again.
    """

    name: str
    url: str
    limits: CrawlLimits
    budget_group: int = 0
    is_feed: bool = False

    def contains(self, url: str, scope: Literal["folder", "host"]) -> bool:
        """Return whether `url` has the origin of the seed and lies in its scope."""
        folder = urlsplit(self.url).path.rpartition("/")[0] + "/" if scope == "folder" else "/"
        return url_origin(url) == url_origin(self.url) and (urlsplit(url).path.startswith(folder) or url == self.url)


def match_seed(url: str, seeds: Sequence[Seed]) -> tuple[str, str]:
    """Return the seed that contains `url`, and "" or the reason to skip the URL."""
    if len(url) > MAX_URL_CHARS:
        return "", "url-length"
    folder = next((seed for seed in seeds if seed.contains(url, "folder")), None)
    seed = folder or next((seed for seed in seeds if seed.contains(url, seed.limits.scope)), None)
    if seed is None:
        return "", "out-of-scope" if url_origin(url) in {url_origin(other_seed.url) for other_seed in seeds} else "off-site"
    if url in {other_seed.url for other_seed in seeds}:
        return seed.name, ""
    if seed.limits.include and not any(re.search(pattern, url) for pattern in seed.limits.include):
        return seed.name, "not-included"
    if any(re.search(pattern, url) for pattern in seed.limits.exclude):
        return seed.name, "excluded"
    if REPEATED_FOLDERS.search(urlsplit(url).path):
        return seed.name, "trap-repetition"
    return seed.name, ""
