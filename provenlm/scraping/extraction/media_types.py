"""Tell the media type of a document from its first bytes (MIME Sniffing standard)."""

import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

UNTYPED = ("", "application/octet-stream", "binary/octet-stream", "application/unknown", "unknown/unknown", "*/*")  # to be sniffed
SNIFFED_BYTES = 1445  # that the standard looks at
BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
BINARY_BYTE = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
HTML_START = re.compile(
    rb"\s*<(?:!doctype html|html|head|body|main|article|section|script|iframe|h[1-6]|div|font|table|a|style|title|meta|link|b|br|p)[\s>/]",
    re.IGNORECASE,
)
COMMENT_OR_XML = re.compile(rb"\s*(?:<!--.*?-->|<\?xml.*?\?>)", re.DOTALL)
FEED_START = re.compile(rb"\s*<(?:rss|feed|rdf:RDF|urlset|sitemapindex)[\s>]")
SUFFIX_MEDIA_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".adoc": "text/x-asciidoc",
    ".tex": "text/x-tex",
}


def sniff_media_type(content: bytes, url: str) -> str:
    """Return the media type of a document whose server gives none.

    The suffix of `url` tells plain texts apart.
    """
    if content.startswith(b"%PDF-"):
        return "application/pdf"
    head = content[:SNIFFED_BYTES]
    if not head.startswith(BYTE_ORDER_MARKS) and BINARY_BYTE.search(head):
        return "application/octet-stream"
    head = head.removeprefix(b"\xef\xbb\xbf")
    while match := COMMENT_OR_XML.match(head):
        head = head[match.end() :]
    if HTML_START.match(head):
        return "text/html"
    if FEED_START.match(head):
        return "application/xml"
    return SUFFIX_MEDIA_TYPES.get(PurePosixPath(urlsplit(url).path).suffix.lower(), "text/plain")
