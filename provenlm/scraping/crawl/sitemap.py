"""A site's robots.txt and sitemaps in, the addresses that they list out (sitemaps.org protocol 0.9: plain, index, gzip)."""

import io
import zlib
from collections.abc import Iterator

from lxml import etree

from provenlm.scraping.crawl.fetcher import Fetcher
from provenlm.scraping.crawl.robots import Robots
from provenlm.scraping.crawl.urls import canonical, origin

LIMIT = 50 << 20  # bytes a sitemap may have, by the protocol
MAX_FILES = 100  # sitemaps read of one site: an index may point to an index, or to itself
MAX_URLS = 50_000  # by the protocol, of one file


def listed(start: str, robots: Robots, fetcher: Fetcher, delay: float) -> Iterator[str]:
    """Canonical addresses from the sitemaps of the site of `start`, each sitemap read once, on the same host only."""
    rules = robots.of(start)
    waiting = [canonical(url, start) for url in [*rules.sitemaps, "/sitemap.xml"]]
    seen: set[str] = set()
    while waiting and len(seen) < MAX_FILES:
        url = waiting.pop(0)
        if url is None or url in seen or origin(url) != origin(start) or rules.reason_against(url):
            continue
        seen.add(url)
        answer = fetcher.get(url, {}, (), LIMIT, delay)
        if answer.status != 200 or answer.reason:
            continue
        for kind, found in parse(answer.body):
            address = canonical(found, url)
            if kind == "sitemap":
                waiting.append(address)
            elif address is not None:
                yield address


def parse(body: bytes) -> Iterator[tuple[str, str]]:
    """`("url" | "sitemap", address)` for each entry, up to the first thing that is not a sitemap. No entity is ever resolved."""
    count = 0
    try:
        events = etree.iterparse(
            io.BytesIO(_unpacked(body)), events=("end",), resolve_entities=False, no_network=True, load_dtd=False
        )
        for _, element in events:
            name = etree.QName(element).localname if isinstance(element.tag, str) else ""
            if name == "loc" and element.getparent() is not None and element.text:
                kind = etree.QName(element.getparent()).localname
                if kind in ("url", "sitemap") and count < MAX_URLS:
                    count += 1
                    yield kind, element.text.strip()
            elif name in ("url", "sitemap"):
                element.clear()
    except (etree.XMLSyntaxError, zlib.error):
        return


def _unpacked(body: bytes) -> bytes:
    """The body of a `.gz` file, at most LIMIT bytes of it."""
    return zlib.decompressobj(wbits=31).decompress(body, LIMIT) if body[:2] == b"\x1f\x8b" else body
