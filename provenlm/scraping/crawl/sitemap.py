"""Read the sitemaps of a site (sitemaps.org protocol 0.9: plain, index, gzip)."""

import io
import zlib
from collections.abc import Iterator

from lxml import etree

from provenlm.scraping.crawl.fetcher import Fetcher
from provenlm.scraping.crawl.robots import RobotsCache
from provenlm.scraping.crawl.urls import normalize_url, url_origin

MAX_SITEMAP_BYTES = 50 << 20  # limit of the protocol
MAX_SITEMAPS = 100  # per site: an index may point to an index, or to itself
MAX_URLS_PER_SITEMAP = 50_000  # limit of the protocol


def sitemap_urls(start_url: str, robots: RobotsCache, fetcher: Fetcher, delay_seconds: float) -> Iterator[str]:
    """Yield the normalized URLs of the sitemaps of a site.

    Each sitemap is read once, on the same origin only.
    """
    rules = robots.get(start_url)
    pending = [normalize_url(url, start_url) for url in [*rules.sitemaps, "/sitemap.xml"]]
    visited: set[str] = set()
    while pending and len(visited) < MAX_SITEMAPS:
        url = pending.pop(0)
        if url is None or url in visited or url_origin(url) != url_origin(start_url) or rules.skip_reason(url):
            continue
        visited.add(url)
        response = fetcher.get(url, {}, (), MAX_SITEMAP_BYTES, delay_seconds)
        if response.status != 200 or response.reason:
            continue
        for kind, location in parse_sitemap(response.content):
            entry_url = normalize_url(location, url)
            if kind == "sitemap":
                pending.append(entry_url)
            elif entry_url is not None:
                yield entry_url


def parse_sitemap(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the kind (`url` or `sitemap`) and the location of each entry.

    Stops at malformed markup. Entities are never resolved.
    """
    count = 0
    try:
        events = etree.iterparse(
            io.BytesIO(_decompress(body)), events=("end",), resolve_entities=False, no_network=True, load_dtd=False
        )
        for _, element in events:
            name = etree.QName(element).localname if isinstance(element.tag, str) else ""
            if name == "loc" and element.getparent() is not None and element.text:
                kind = etree.QName(element.getparent()).localname
                if kind in ("url", "sitemap") and count < MAX_URLS_PER_SITEMAP:
                    count += 1
                    yield kind, element.text.strip()
            elif name in ("url", "sitemap"):
                element.clear()
    except (etree.XMLSyntaxError, zlib.error):
        return


def _decompress(body: bytes) -> bytes:
    """Decompress a gzip body, up to MAX_SITEMAP_BYTES; return any other body as it is."""
    return zlib.decompressobj(wbits=31).decompress(body, MAX_SITEMAP_BYTES) if body[:2] == b"\x1f\x8b" else body
