"""What a crawl writes down: addresses on their way to a fate, and pages that are kept."""

from dataclasses import dataclass

from provenlm.scraping.crawl.archive import Place
from provenlm.scraping.extraction.reader import Page

QUEUED = "queued"
KEPT = (
    "empty",
    "listing",
    "canonical",
    "unreadable",
)  # no records, but their responses are kept: a better reader may find something in them
NOWHERE = ""  # the lane of addresses that no host of this crawl has


@dataclass(frozen=True, slots=True)
class Address:
    """A row of the frontier; `state` is queued until its fate is known."""

    lane: str  # the host's queue
    seq: int  # its place there
    url: str
    site: str
    hops: int  # redirects that led here, one after the other
    depth: int  # links that led here from a start or a sitemap
    state: str
    reason: str
    status: int | None = None
    received: int = 0  # bytes of body that came over the network
    size: int = 0  # bytes of the page, received now or before
    tries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A page's last response, and what `reader` (a version) made of it."""

    etag: str
    modified: str
    content_type: str
    fetched_at: str
    digest: str  # of the body
    size: int  # of the body
    place: Place
    reader: str
    page: Page


@dataclass(frozen=True, slots=True)
class Seen:
    """An address to remember: queued in `lane`, or refused at sight for `reason`."""

    url: str
    lane: str
    site: str
    reason: str
    hops: int = 0
    depth: int = 0
