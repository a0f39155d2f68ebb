"""Define how a domain extracts documents from the responses of a crawl."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from provenlm.scraping.extraction.bounded_worker import TimeLimitError, call_bounded

MAX_INLINE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """Hold the document of a response, or the reason why it is no record.

    `reason` is "" for a record.
    """

    content: bytes
    media_type: str
    metadata: Mapping[str, Any]
    links: tuple[str, ...]
    reason: str = ""  # noindex, listing (a feed: links only), redirected (to its only link), empty, unreadable or time-limit
    canonical_url: str = ""  # the canonical URL that the page declares


@dataclass(frozen=True)
class Extractor:
    """Extract the documents of a domain from responses.

    `extract_content(body, content_type, url)` accepts `media_types`. Documents of another `version` are extracted again
    from the archive. A body of more than MAX_INLINE_BYTES is read by a worker process, which ends after `max_seconds` of CPU time;
    what a smaller one can cost is bounded by its size.
    """

    media_types: tuple[str, ...]
    extract_content: Callable[[bytes, str, str], ExtractedDocument]
    version: str
    max_seconds: float = 10.0

    def extract(self, body: bytes, content_type: str, url: str) -> ExtractedDocument:
        """Extract a document.

        Its reason is `unreadable` if `extract_content` raises, and `time-limit` if it does not end in time.
        """
        document: ExtractedDocument
        try:
            if len(body) > MAX_INLINE_BYTES:
                document = call_bounded(self.extract_content, (body, content_type, url), self.max_seconds)
            else:
                document = self.extract_content(body, content_type, url)
        except TimeLimitError:
            return ExtractedDocument(b"", "", {}, (), "time-limit")
        except Exception:  # no page may end a crawl, whatever its parser raises
            return ExtractedDocument(b"", "", {}, (), "unreadable")
        return document if document.reason or document.content.strip() else replace(document, reason="empty")


def outcome_of(document: ExtractedDocument) -> tuple[str, str]:
    """Return the state and the reason of a fetched page."""
    return (
        "failed" if document.reason in ("unreadable", "time-limit") else "skipped" if document.reason else "record"
    ), document.reason
