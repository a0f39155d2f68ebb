"""Define how a domain extracts documents from the responses of a crawl."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """Hold the document of a response, or the reason why it is no record.

    `reason` is "" for a record.
    """

    content: bytes
    media_type: str
    metadata: Mapping[str, Any]
    links: tuple[str, ...]
    reason: str = ""  # noindex, listing (a feed: links only), redirected (to its only link), empty or unreadable
    canonical_url: str = ""  # the canonical URL that the page declares


@dataclass(frozen=True)
class Extractor:
    """Extract the documents of a domain from responses.

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


def outcome_of(document: ExtractedDocument) -> tuple[str, str]:
    """Return the state and the reason of a fetched page."""
    return ("failed" if document.reason == "unreadable" else "skipped" if document.reason else "record"), document.reason
