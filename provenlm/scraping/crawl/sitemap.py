"""Read the sitemaps of a site (sitemaps.org protocol 0.9).

The formats are XML, its index, plain text, RSS and Atom, each also as gzip.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from provenlm.scraping.crawl.fetcher import REDIRECT_STATUSES, Fetcher, Response
from provenlm.scraping.crawl.robots import RobotsCache
from provenlm.scraping.crawl.urls import normalize_url, url_host
from provenlm.scraping.sources import feed

MAX_SITEMAP_BYTES = 50 << 20  # limit of the protocol; the rest of a larger sitemap is not read
MAX_SITEMAPS = 100  # per site: an index may point to an index, or to itself
MAX_SITEMAP_REDIRECTS = 5
MAX_URLS_PER_SITEMAP = 50_000  # limit of the protocol
SITEMAP_ROOTS = ("urlset", "sitemapindex")
ABSENT_REASONS = ("http-", "not-a-sitemap", "off-site", "robots")  # of /sitemap.xml, which no robots.txt lists: there is none


@dataclass(frozen=True, slots=True)
class SitemapResult:
    """Hold the outcome of one sitemap."""

    url: str
    reason: str  # "" if it was read; otherwise http-404, not-a-sitemap, off-site, limit, …
    page_urls: tuple[str, ...] = ()  # normalized


def read_sitemaps(start_url: str, robots: RobotsCache, fetcher: Fetcher, delay_seconds: float) -> Iterator[SitemapResult]:
    """Yield the outcome of every sitemap that robots.txt and the indexes list.

    Each sitemap is read once, on the host of the site only; redirects on that host are followed. /sitemap.xml is tried as well.
    """
    listed = [normalize_url(url, start_url) or url for url in robots.get(start_url).sitemaps]
    default_url = normalize_url("/sitemap.xml", start_url) or ""
    pending, visited = [*listed, default_url], set[str]()
    while pending:
        url = pending.pop(0)
        if url in visited:
            continue
        if len(visited) >= MAX_SITEMAPS:
            yield SitemapResult(url, "limit")
            visited.add(url)
            continue
        visited.add(url)
        response, final_url, reason = _fetch_sitemap(url, start_url, robots, fetcher, delay_seconds)
        visited.add(final_url)
        entries = parse_sitemap(response.content, final_url, response.headers.get("Content-Type", "")) if response else None
        reason = reason or ("not-a-sitemap" if entries is None else "")
        if url == default_url and url not in listed and reason.startswith(ABSENT_REASONS):
            continue
        normalized = [(kind, normalize_url(location, final_url)) for kind, location in entries or ()]
        pending += [entry_url for kind, entry_url in normalized if kind == "sitemap" and entry_url is not None]
        page_urls = (entry_url for kind, entry_url in normalized if kind == "url" and entry_url is not None)
        yield SitemapResult(url, reason, tuple(dict.fromkeys(page_urls)))


def _fetch_sitemap(
    url: str, start_url: str, robots: RobotsCache, fetcher: Fetcher, delay_seconds: float
) -> tuple[Response | None, str, str]:
    """Return the response of a sitemap, its final URL and the reason why it cannot be read."""
    for _ in range(MAX_SITEMAP_REDIRECTS + 1):
        if url_host(url) != url_host(start_url):
            return None, url, "off-site"
        if reason := robots.get(url).skip_reason(url):
            return None, url, reason
        response = fetcher.get(url, {}, (), MAX_SITEMAP_BYTES, delay_seconds, truncate=True)
        target = normalize_url(response.headers.get("Location", ""), url) if response.status in REDIRECT_STATUSES else None
        if target is None:
            failed = response.status != 200 or response.reason
            return (None, url, response.reason or f"http-{response.status}") if failed else (response, url, "")
        url = target
    return None, url, "redirect-limit"


def parse_sitemap(body: bytes, url: str = "", content_type: str = "") -> list[tuple[str, str]] | None:
    """Return the kind (`url` or `sitemap`) and the location of each entry.

    None if `body` is no sitemap.

    Reads on after malformed markup.
    """
    text = feed.decode_xml(_decompress(body), content_type)
    root = feed.root_name(text)
    if root in feed.FEED_ROOTS:
        return [("url", link) for link in feed.feed_links(text.encode(), url)][:MAX_URLS_PER_SITEMAP]
    if root not in SITEMAP_ROOTS:
        lines = [] if text.lstrip("\ufeff \t\r\n").startswith("<") else [line.strip("\ufeff \t\r") for line in text.split("\n")]
        locations = [line for line in lines if line.lower().startswith(("http://", "https://"))]
        return [("url", location) for location in locations[:MAX_URLS_PER_SITEMAP]] or None
    entries: list[tuple[str, str]] = []
    for element in feed.xml_elements(text, ("url", "sitemap")):
        location = next((child.text for child in element if feed.local_name(child) == "loc" and child.text), None)
        if location and len(entries) < MAX_URLS_PER_SITEMAP:
            entries.append((feed.local_name(element), location.strip()))
    return entries


def _decompress(body: bytes) -> bytes:
    """Decompress a gzip body, up to MAX_SITEMAP_BYTES and to its damage; return any other body as it is."""
    content = bytearray()
    while body[:2] == b"\x1f\x8b" and len(content) < MAX_SITEMAP_BYTES:
        member = zlib.decompressobj(wbits=31)
        try:
            for start in range(0, len(body), 1 << 16):
                content += member.decompress(body[start : start + (1 << 16)], MAX_SITEMAP_BYTES)
                if member.eof or len(content) > MAX_SITEMAP_BYTES:
                    break
        except zlib.error:
            return bytes(content)
        if not member.eof:
            return bytes(content[:MAX_SITEMAP_BYTES])
        body = member.unused_data + body[start + (1 << 16) :]
    return bytes(content[:MAX_SITEMAP_BYTES]) if content else body
