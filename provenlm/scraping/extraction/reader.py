"""A stored response in, what a crawl wants of it out: the text that becomes a record, the facts about it, the links to follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from provenlm.core import hashing
from provenlm.scraping.crawl import urls
from provenlm.scraping.extraction import charset, html, main_content, page_metadata, whitespace
from provenlm.scraping.sources import feed


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """What a reader made of a response. `reason`: why it is no record, though there was one to read."""

    content: bytes
    media_type: str
    metadata: Mapping[str, Any]
    links: tuple[str, ...]
    reason: str = ""  # noindex: it asks not to be kept; listing: a feed, which only says where to look; empty; unreadable
    canonical_url: str = ""  # the address that it gives itself, if it gives one


@dataclass(frozen=True)
class Extractor:
    """How a domain reads responses: the media types it asks for, and `read(body, content type, address)`.

    What another `version` read is read again from the archive.
    """

    media_types: tuple[str, ...]
    extract_content: Callable[[bytes, str, str], ExtractedDocument]
    version: str

    def extract(self, body: bytes, content_type: str, url: str) -> ExtractedDocument:
        """What `read` makes of it; where it cannot, whatever it raises, an unreadable page: no page may end a crawl."""
        try:
            document = self.extract_content(body, content_type, url)
        except Exception:  # a foreign page breaks a parser in ways that nobody lists
            return ExtractedDocument(b"", "", {}, (), "unreadable")
        return document if document.reason or document.content.strip() else replace(document, drop_reason="empty")


def extract_text(body: bytes, content_type: str, url: str) -> ExtractedDocument:
    """HTML becomes its main text; plain text and Markdown stay as they are; a feed is links alone. UTF-8, in the page's own normal form."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in feed.MEDIA_TYPES:
        return ExtractedDocument(b"", media_type, {}, tuple(dict.fromkeys(feed.feed_links(body, url))), "listing")
    text, _ = charset.decode_body(body, content_type)
    if media_type not in HTML_MEDIA_TYPES:
        return ExtractedDocument(text.encode("utf-8", "replace"), media_type, {}, ())
    parsed = html.read_html(text, url)
    about_page = parsed.metadata
    fields = (
        ("title", about_page.title),
        ("lang", about_page.language),
        ("date", about_page.date),
        ("licence", about_page.license_url),
    )
    metadata_fields = {key: value for key, value in fields if value}
    return ExtractedDocument(
        parsed.text.encode("utf-8", "replace"),
        "text/plain",
        metadata_fields,
        parsed.links,
        "" if parsed.indexable else "noindex",
        about_page.canonical_url,
    )


def _extractor_version() -> str:
    """Of all that decides what becomes of a response: our code and the parsers below it."""
    modules = [Path(module.__file__ or "") for module in (page_metadata, charset, main_content, html, feed, whitespace, urls)]
    code_hash = hashing.sha256_files([*modules, Path(__file__)], Path(__file__).parents[1])
    return hashing.sha256_json([code_hash, *(metadata.version(name) for name in ("beautifulsoup4", "lxml"))])


HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
TEXT_EXTRACTOR = Extractor(
    (*HTML_MEDIA_TYPES, "text/plain", "text/markdown", *feed.MEDIA_TYPES), extract_text, _extractor_version()
)
