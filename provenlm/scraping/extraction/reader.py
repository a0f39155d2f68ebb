"""Extract the document of a response: its text, its metadata and its links."""

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
    """The document of a response. `reason` says why it is no record; "" if it is one."""

    content: bytes
    media_type: str
    metadata: Mapping[str, Any]
    links: tuple[str, ...]
    reason: str = ""  # noindex, listing (a feed: links only), empty or unreadable
    canonical_url: str = ""  # the canonical URL that the page declares


@dataclass(frozen=True)
class Extractor:
    """How a domain extracts documents from responses.

    `extract_content(body, content_type, url)` accepts `media_types`. Documents of another `version` are extracted again
    from the archive.
    """

    media_types: tuple[str, ...]
    extract_content: Callable[[bytes, str, str], ExtractedDocument]
    version: str

    def extract(self, body: bytes, content_type: str, url: str) -> ExtractedDocument:
        """Extract a document; its reason is `unreadable` if `extract_content` raises."""
        try:
            document = self.extract_content(body, content_type, url)
        except Exception:  # no page may end a crawl, whatever its parser raises
            return ExtractedDocument(b"", "", {}, (), "unreadable")
        return document if document.reason or document.content.strip() else replace(document, reason="empty")


def extract_text(body: bytes, content_type: str, url: str) -> ExtractedDocument:
    """Extract the main text of HTML, plain text and Markdown, or the links of a feed.

    The text is UTF-8; its Unicode normalization form is kept.
    """
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
        ("license", about_page.license_url),
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
    """Hash the code and the parser versions that determine the extracted document."""
    modules = [Path(module.__file__ or "") for module in (page_metadata, charset, main_content, html, feed, whitespace, urls)]
    code_hash = hashing.sha256_files([*modules, Path(__file__)], Path(__file__).parents[1])
    return hashing.sha256_json([code_hash, *(metadata.version(name) for name in ("beautifulsoup4", "lxml"))])


HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
TEXT_EXTRACTOR = Extractor(
    (*HTML_MEDIA_TYPES, "text/plain", "text/markdown", *feed.MEDIA_TYPES), extract_text, _extractor_version()
)
