"""What a crawl writes down: addresses on their way to a fate, and pages that are kept."""

from dataclasses import dataclass

from provenlm.scraping.crawl.archive import WarcLocation
from provenlm.scraping.extraction.reader import ExtractedDocument

QUEUED = "queued"
CACHED_REASONS = (
    "empty",
    "listing",
    "canonical",
    "unreadable",
)  # no records, but their responses are kept: a better reader may find something in them
NO_HOST = ""  # the lane of addresses that no host of this crawl has


@dataclass(frozen=True, slots=True)
class FrontierEntry:
    """A row of the frontier; `state` is queued until its fate is known."""

    host: str  # the host's queue
    seq: int  # its place there
    url: str
    site: str
    redirects: int  # redirects that led here, one after the other
    depth: int  # links that led here from a start or a sitemap
    state: str
    reason: str
    status: int | None = None
    bytes_received: int = 0  # bytes of body that came over the network
    size: int = 0  # bytes of the page, received now or before
    attempts: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CachedPage:
    """A page's last response, and what `reader` (a version) made of it."""

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
    """An address to remember: queued in `lane`, or refused at sight for `reason`."""

    url: str
    host: str
    site: str
    reason: str
    redirects: int = 0
    depth: int = 0
