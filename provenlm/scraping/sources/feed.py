"""Read the links of a feed (RSS 0.9 to 2.0, Atom), also of a malformed one."""

import io
import re
from collections.abc import Collection, Iterator

from lxml import etree

from provenlm.scraping.crawl.urls import normalize_url
from provenlm.scraping.extraction import charset

MEDIA_TYPES = ("application/rss+xml", "application/atom+xml", "application/rdf+xml", "application/xml", "text/xml")
FEED_ROOTS = ("rss", "feed", "RDF")
MAX_ENTRIES = 10_000
ENTRY_NAMES = ("item", "entry")
ROOT_TAG = re.compile(r"<(?:[\w.-]+:)?(rss|feed|RDF|urlset|sitemapindex)(?=[\s/>])")
ENTITY = re.compile(r"<!ENTITY\s+([\w.:-]{1,100})\s")
# A CDATA section, or an ampersand that begins none of the references that XML knows without a DTD.
BARE_AMPERSAND = re.compile(r"<!\[CDATA\[.*?\]\]>|&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[0-9a-fA-F]+);)", re.DOTALL)


def feed_links(body: bytes, url: str, content_type: str = "") -> Iterator[str]:
    """Yield the normalized URLs of the entries of a feed.

    Reads on after malformed markup.
    """
    count = 0
    for element in xml_elements(decode_xml(body, content_type), ENTRY_NAMES):
        entry_url = normalize_url(_link(element), url) if _link(element) else None
        if entry_url is not None and count < MAX_ENTRIES:
            count += 1
            yield entry_url


def decode_xml(body: bytes, content_type: str) -> str:
    """Decode an XML document or a plain text."""
    return charset.decode_body(body, content_type)[0]


def root_name(text: str) -> str:
    """Return the name of the root element of a feed or a sitemap, without prefix.

    "" for another document.
    """
    match = ROOT_TAG.search(text)
    return match[1] if match else ""


def xml_elements(text: str, names: Collection[str]) -> Iterator[etree._Element]:
    """Yield the elements of a feed or a sitemap whose local name is in `names`.

    Each is cleared afterwards.

    Reads on after bare ampersands and other errors; an element that the end of the text cuts is left out. The DTD is not
    parsed, and the entities that it declares are removed: none is ever resolved.
    """
    match = ROOT_TAG.search(text)
    end_tag = text.rfind("</")
    if match is None:
        return
    entities = "|".join(map(re.escape, ENTITY.findall(text, 0, match.start())))
    text = text[match.start() : text.find(">", end_tag) + 1 or end_tag] if end_tag > match.start() else ""
    text = re.sub(f"&(?:{entities});", "", text) if entities else text
    markup = BARE_AMPERSAND.sub(lambda part: "&amp;" if part[0] == "&" else part[0], text).encode("utf-8", "replace")
    try:
        events = etree.iterparse(
            io.BytesIO(markup),
            events=("end",),
            recover=True,
            encoding="utf-8",
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
        )
        for _, element in events:
            if local_name(element) in names:
                yield element
                element.clear()
    except etree.XMLSyntaxError:
        return


def local_name(element: etree._Element) -> str:
    """Return the name of an element without namespace and prefix.

    "" for a comment.
    """
    return re.split("[}:]", element.tag)[-1] if isinstance(element.tag, str) else ""


def _link(entry: etree._Element) -> str:
    """Return the URL of an entry: a link of RSS or Atom, or a permanent guid."""
    guid = ""
    for child in entry:
        name = local_name(child)
        if name == "link" and child.get("href") and child.get("rel", "alternate").lower() == "alternate":
            return str(child.get("href"))
        if name == "link" and (child.text or "").strip():
            return str(child.text).strip()
        if name == "guid" and child.get("isPermaLink", "true") == "true":
            guid = (child.text or "").strip()
    return guid
