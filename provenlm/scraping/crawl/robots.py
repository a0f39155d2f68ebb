"""Fetch and apply robots.txt: allowed URLs, crawl delay and sitemaps (RFC 9309)."""

import time
from dataclasses import dataclass, field

from protego import Protego
from requests.structures import CaseInsensitiveDict

from provenlm.scraping.crawl.fetcher import REDIRECT_STATUSES, Fetcher, Response
from provenlm.scraping.crawl.robots_directives import PRODUCT_TOKEN
from provenlm.scraping.crawl.urls import normalize_url, url_origin

MAX_ROBOTS_BYTES = 512 << 10  # the RFC requires at least 500 KiB
MAX_ROBOTS_REDIRECTS = 5
VALID_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class RobotsRules:
    """Apply the robots.txt rules of one origin.

    `fetch_error` is set if robots.txt could not be fetched: then every URL is forbidden.
    """

    parser: Protego
    fetch_error: Response | None
    fetched_at: float  # monotonic clock

    def skip_reason(self, url: str) -> str:
        """Return why `url` must not be fetched; "" if it may."""
        if self.fetch_error is not None:
            return "private-address" if self.fetch_error.reason == "private-address" else "robots-unreachable"
        return "" if self.parser.can_fetch(url, PRODUCT_TOKEN) else "robots"

    def detail(self) -> str:
        """Return an explanation of `skip_reason` for an error message."""
        return f"robots.txt: {self.fetch_error.detail or self.fetch_error.reason}" if self.fetch_error else "robots.txt forbids it"

    def crawl_delay(self, max_seconds: float) -> float:
        """Return the Crawl-delay in seconds, at most `max_seconds`; 0 if there is none."""
        return min(float(self.parser.crawl_delay(PRODUCT_TOKEN) or 0.0), max_seconds)

    @property
    def sitemaps(self) -> list[str]:
        """Return the URLs of the sitemaps."""
        return list(self.parser.sitemaps)


@dataclass
class RobotsCache:
    """Cache the rules of every origin for a day."""

    fetcher: Fetcher
    rules: dict[str, RobotsRules] = field(default_factory=dict)

    def get(self, url: str) -> RobotsRules:
        """Return the rules for `url`, from the cache or from its host."""
        key = url_origin(url)
        if key not in self.rules or time.monotonic() - self.rules[key].fetched_at > VALID_SECONDS:
            self.rules[key] = parse_robots(self._fetch_robots(f"{key}/robots.txt"))
        return self.rules[key]

    def _fetch_robots(self, url: str) -> Response:
        for _ in range(MAX_ROBOTS_REDIRECTS + 1):
            response = self.fetcher.get(url, {}, (), MAX_ROBOTS_BYTES, 0.0, truncate=True)
            target = normalize_url(response.headers.get("Location", ""), url) if response.status in REDIRECT_STATUSES else None
            if target is None:
                return response
            url = target
        return Response(404, "redirects", CaseInsensitiveDict(), b"", 0, 0, 0.0)  # section 2.3.1.2: counts as unavailable


def parse_robots(response: Response) -> RobotsRules:
    """Parse a robots.txt response (RFC 9309, section 2.3.1).

    4xx allows everything; 5xx, 429 and no response forbid everything.
    """
    unreachable = (
        response.status is None
        or response.status == 429
        or response.status >= 500
        or (response.status == 200 and response.reason != "")
    )
    text = response.content.decode("utf-8", "replace").lstrip("\ufeff") if response.status == 200 and not unreachable else ""
    return RobotsRules(Protego.parse(text), response if unreachable else None, time.monotonic())
