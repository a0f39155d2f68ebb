"""Define the entries of the crawl frontier and the cached pages."""

from dataclasses import dataclass

from provenlm.scraping.crawl.archive import WarcLocation
from provenlm.scraping.extraction.extractor import ExtractedDocument

QUEUED = "queued"
CACHED_REASONS = (
    "empty",
    "listing",
    "canonical",
    "unreadable",
    "time-limit",
)  # no records, but their responses are cached: an improved extractor may find text in them
NO_HOST = ""  # queue of URLs whose host is not part of this crawl


@dataclass(frozen=True, slots=True)
class FrontierEntry:
    """Hold one URL of the frontier and its outcome.

    `state` is queued, record, skipped or failed.
    """

    host: str  # name of the host queue
    seq: int  # position in that queue
    url: str
    site: str
    redirects: int  # redirects in a row that led here
    depth: int  # links in a row that led here from a start URL or a sitemap
    state: str
    reason: str
    status: int | None = None
    received_bytes: int = 0  # decoded body bytes
    size: int = 0  # bytes of the page, received now or cached
    attempts: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CachedPage:
    """Hold the last response of a page and the document extracted from it."""

    etag: str
    last_modified: str
    content_type: str
    fetched_at: str
    sha256: str  # of the body
    size: int  # of the body
    location: WarcLocation
    extractor_version: str
    document: ExtractedDocument


@dataclass(frozen=True, slots=True)
class DiscoveredUrl:
    """Hold a URL found on a page.

    It is enqueued for `host`, or skipped at once for `reason`.
    """

    url: str
    host: str
    site: str
    reason: str
    redirects: int = 0
    depth: int = 0
