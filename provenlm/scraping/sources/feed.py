"""Read the links of a feed (RSS 0.9 to 2.0, Atom)."""

import io
from collections.abc import Iterator

from lxml import etree

from provenlm.scraping.crawl.urls import normalize_url

MEDIA_TYPES = ("application/rss+xml", "application/atom+xml", "application/rdf+xml", "application/xml", "text/xml")
MAX_ENTRIES = 10_000
ENTRY_NAMES = ("item", "entry")


def feed_links(body: bytes, url: str) -> Iterator[str]:
    """Yield the normalized URLs of the entries of a feed.

    Stops at malformed markup. Entities are never resolved.
    """
    count = 0
    try:
        events = etree.iterparse(
            io.BytesIO(body), events=("end",), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
        )
        for _, element in events:
            name = etree.QName(element).localname if isinstance(element.tag, str) else ""
            if name not in ENTRY_NAMES or count >= MAX_ENTRIES:
                continue
            entry_url = normalize_url(_link(element), url) if _link(element) else None
            element.clear()
            if entry_url is not None:
                count += 1
                yield entry_url
    except etree.XMLSyntaxError:
        return


def _link(entry: etree._Element) -> str:
    """Return the URL of an entry: a link of RSS or Atom, or a permanent guid."""
    guid = ""
    for child in entry:
        name = etree.QName(child).localname if isinstance(child.tag, str) else ""
        if name == "link" and child.get("href") and child.get("rel", "alternate") == "alternate":
            return str(child.get("href"))
        if name == "link" and (child.text or "").strip():
            return str(child.text).strip()
        if name == "guid" and child.get("isPermaLink", "true") == "true":
            guid = (child.text or "").strip()
    return guid
