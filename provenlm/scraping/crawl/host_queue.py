"""Process the queue of one host: fetch, classify and store each URL."""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from provenlm.core import hashing
from provenlm.core.errors import DataError
from provenlm.scraping.crawl.fetcher import REDIRECT_STATUSES, Fetcher, Response
from provenlm.scraping.crawl.frontier import NO_HOST, CachedPage, DiscoveredUrl, FrontierEntry
from provenlm.scraping.crawl.robots import RobotsCache
from provenlm.scraping.crawl.robots_directives import parse_directives
from provenlm.scraping.crawl.sitemap import SitemapResult, read_sitemaps
from provenlm.scraping.crawl.store import CrawlStore
from provenlm.scraping.crawl.trap_guard import TrapGuard
from provenlm.scraping.crawl.urls import Seed, match_seed, normalize_url, url_host, url_origin
from provenlm.scraping.extraction.extractor import ExtractedDocument, Extractor, outcome_of

MAX_REDIRECTS = 5  # in a row
MAX_SILENT_PAGES = 5  # in a row without a response; then the rest of the host is skipped in this crawl
SKIP_REASONS = (
    "private-address",
    "too-large",
    "content-type",
)  # refused by the crawler; every other failure is on the side of the server
TRANSIENT_FAILURE = re.compile(r"connection|timeout|too-slow|dns|tls|host-silent|robots-unreachable|http-(429|5\d\d)")
LINK_ONLY_REASONS = ("listing", "redirected")
ACCEPTED_START_REASONS = ("redirected", "noindex", "empty", "listing")  # a start URL may be a page of links only


@dataclass(frozen=True)
class FetchOutcome:
    """Hold the outcome of one URL: its entry, its cached page and its links."""

    entry: FrontierEntry
    cached: CachedPage | None = None
    discovered: Sequence[DiscoveredUrl] = ()
    detail: str = ""  # explanation for an error message


class HostQueue:
    """Process the queue of one host."""

    def __init__(
        self,
        name: str,
        seeds: Sequence[Seed],
        hosts: frozenset[str],
        extractor: Extractor,
        store: CrawlStore,
        fetcher: Fetcher,
        embedded: bool,
    ) -> None:
        self.name, self.seeds, self.hosts, self.extractor, self.store, self.fetcher = name, seeds, hosts, extractor, store, fetcher
        self.given_seeds = seeds
        self.embedded = embedded  # the embedded pydoc site; it needs no delay
        self.starts = [seed for seed in seeds if url_host(seed.url) == name]
        self.robots = RobotsCache(fetcher)
        self.silent_pages: dict[str, int] = {}  # origin: number of pages in a row without a response
        self.limits = {seed.name: seed.limits for seed in seeds}
        self.budget_groups = {seed.name: seed.budget_group for seed in seeds}

    def run(self, stop: threading.Event, report_progress: Callable[[FrontierEntry], None]) -> None:
        """Fetch until the queue is empty or `stop` is set.

        Raises DataError if a start URL cannot be fetched.
        """
        known_urls = self.store.urls_of_host(self.name)
        for start in [url for url, _, reason in known_urls if reason == "redirected"]:
            for url, redirects, _ in known_urls:
                if redirects == 1 or url == f"{start}/":
                    self._narrow_folder(start, url)
        self.trap_guard = TrapGuard(url for url, _, reason in known_urls if not reason)
        if not known_urls:
            sitemaps = self._read_sitemaps()
            self.store.enqueue(self.name, self._start_urls(sitemaps), sitemaps)
        self.budget_used: dict[int, tuple[int, int]] = {}
        for site, (pages, size) in self.store.budget_used(self.name).items():
            self._charge_budget(site, pages, size)
        seq = 0
        while not stop.is_set() and (entry := self.store.next_entry(self.name, seq)) is not None:
            outcome = self._keep_stale(self._visit(entry))
            if stop.is_set():
                return  # the request was aborted, so its outcome is not stored
            self._complete(outcome)
            report_progress(entry)
            seq = entry.seq + 1

    def _read_sitemaps(self) -> list[SitemapResult]:
        """Read the sitemaps of every origin of this host."""
        origins = {url_origin(site.url): site.url for site in self.starts}
        return [
            result for start in origins.values() for result in read_sitemaps(start, self.robots, self.fetcher, self._delay(start))
        ]

    def _start_urls(self, sitemaps: Sequence[SitemapResult]) -> list[DiscoveredUrl]:
        """Return the start URLs, the URLs of sitemaps and the earlier entries of feeds."""
        listed_urls = [url for result in sitemaps for url in result.page_urls]
        feeds = [site for site in self.starts if site.is_feed]
        previous_urls = [url for url in self.store.cached_urls() if match_seed(url, feeds)[1] == ""] if feeds else []
        starts = [DiscoveredUrl(site.url, self.name, site.name, "") for site in self.starts]
        return [*starts, *(self._discover(url, 0) for url in listed_urls), *(self._discover(url, 1) for url in previous_urls)]

    def _complete(self, outcome: FetchOutcome) -> None:
        entry = outcome.entry
        if entry.seq < len(self.starts) and entry.state != "record" and entry.reason not in ACCEPTED_START_REASONS:
            raise DataError(f"start_urls: {entry.site}: {entry.reason}: {outcome.detail or 'outside the limits of this crawl'}")
        self.store.complete(entry, outcome.cached, outcome.discovered)
        if entry.state == "record":
            self._charge_budget(entry.site, 1, entry.size)

    def _keep_stale(self, outcome: FetchOutcome) -> FetchOutcome:
        """Fall back to the cached page after a transient failure, except for start URLs."""
        entry = outcome.entry
        if entry.seq < len(self.starts) or not TRANSIENT_FAILURE.fullmatch(entry.reason):
            return outcome
        cached = refresh_extraction(self.store.cached_page(entry.url), entry.url, self.extractor, self.store)
        if cached is None or cached.document.reason:
            return outcome
        return FetchOutcome(
            replace(entry, state="record", reason="stale", size=cached.size),
            cached,
            self._discover_links(cached.document, entry),
        )

    def _is_narrowed(self, entry: FrontierEntry) -> bool:
        """Return whether an entry may lie outside the scope, because it was enqueued before its start URL became a folder."""
        return entry.seq >= len(self.starts) and self.seeds != self.given_seeds

    def _charge_budget(self, site: str, pages: int, size: int) -> None:
        used = self.budget_used.get(self.budget_groups[site], (0, 0))
        self.budget_used[self.budget_groups[site]] = used[0] + pages, used[1] + size

    def _visit(self, entry: FrontierEntry) -> FetchOutcome:
        if reason := self._exceeded_budget(entry.site) or (
            match_seed(entry.url, self.seeds)[1] if self._is_narrowed(entry) else ""
        ):
            return _skip(entry, reason)
        rules = self.robots.get(entry.url)
        if reason := rules.skip_reason(entry.url):
            return _skip(entry, reason, rules.detail())
        origin_key = url_origin(entry.url)
        if self.silent_pages.get(origin_key, 0) >= MAX_SILENT_PAGES:
            return FetchOutcome(replace(entry, state="failed", reason="host-silent"))
        cached = refresh_extraction(self.store.cached_page(entry.url), entry.url, self.extractor, self.store)
        max_bytes = self.fetcher.policy.max_response_bytes
        headers, media_types, delay_seconds = _conditional_headers(cached), self.extractor.media_types, self._delay(entry.url)
        response = self.fetcher.get(entry.url, headers, media_types, max_bytes, delay_seconds)
        if (cookies := _cookies(response)) and _redirect_target(entry.url, response) == entry.url:
            headers, num_attempts = {**headers, "Cookie": cookies}, response.attempts
            response = self.fetcher.get(entry.url, headers, media_types, max_bytes, delay_seconds)
            response = replace(response, attempts=response.attempts + num_attempts)
        self.silent_pages[origin_key] = self.silent_pages.get(origin_key, 0) + 1 if response.status is None else 0
        return self._classify(replace(entry, **_response_fields(response)), response, cached)

    def _classify(self, entry: FrontierEntry, response: Response, cached: CachedPage | None) -> FetchOutcome:
        if response.status in REDIRECT_STATUSES:
            return self._redirect(entry, _redirect_target(entry.url, response), _location(response))
        if response.reason in SKIP_REASONS:
            return _skip(entry, response.reason, response.detail)
        is_cached = response.status == 304 and cached is not None
        if not is_cached and (response.status != 200 or response.reason):
            reason = response.reason or f"http-{response.status}"
            return FetchOutcome(replace(entry, state="failed", reason=reason), detail=response.detail)
        return self._accept_page(entry, response, cached)

    def _accept_page(self, entry: FrontierEntry, response: Response, cached: CachedPage | None) -> FetchOutcome:
        """Store a complete page, unless its content equals that of the cached page."""
        headers, sha256 = response.headers, hashing.sha256_bytes(response.content)
        validators = headers.get("ETag", ""), headers.get("Last-Modified", ""), headers.get("Content-Type", "")
        if cached is not None and response.status == 304:
            unchanged: CachedPage | None = replace(cached, etag=headers.get("ETag", cached.etag))
        elif cached is not None and cached.sha256 == sha256 and cached.content_type == validators[2]:
            unchanged = replace(cached, etag=validators[0], last_modified=validators[1])
        else:
            unchanged = None
        document = unchanged.document if unchanged else self.extractor.extract(response.content, validators[2], entry.url)
        document = obey_directives(document, headers.get("X-Robots-Tag", "").split("\n"))
        if document.reason == "redirected":  # by a refresh
            return self._redirect(entry, document.links[0], document.links[0])
        if document.reason == "noindex":
            return replace(_skip(entry, "noindex"), discovered=self._discover_links(document, entry))
        if unchanged is not None:
            return self._outcome_of_page(entry, replace(unchanged, document=document))
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        location = self.store.archive.append(entry.url, headers, response.content, fetched_at)
        return self._outcome_of_page(
            entry, CachedPage(*validators, fetched_at, sha256, len(response.content), location, self.extractor.version, document)
        )

    def _outcome_of_page(self, entry: FrontierEntry, cached: CachedPage) -> FetchOutcome:
        state, reason = outcome_of(cached.document)
        entry = replace(entry, state=state, reason=reason, size=cached.size)
        return FetchOutcome(entry, cached, self._discover_links(cached.document, entry))

    def _discover_links(self, document: ExtractedDocument, entry: FrontierEntry) -> list[DiscoveredUrl]:
        links = [*document.links, *([document.canonical_url] if document.canonical_url else [])]
        return [self._discover(url, entry.depth + 1) for url in links]

    def _redirect(self, entry: FrontierEntry, target: str | None, location: str) -> FetchOutcome:
        """Enqueue the target of a redirect, so that it is checked like any other URL."""
        if target is None:
            return _skip(entry, "redirect-nowhere", f"it redirects to {location!r}")
        self._narrow_folder(entry.url, target)
        discovered = replace(self._discover(target, entry.depth), redirects=entry.redirects + 1)
        if discovered.reason or target == entry.url or discovered.redirects > MAX_REDIRECTS:
            reason = discovered.reason or ("loop" if target == entry.url else "limit")
            skipped = _skip(entry, f"redirect-{reason}", f"it redirects to {target}")
            return replace(skipped, discovered=[discovered] if discovered.reason else [])
        return replace(_skip(entry, "redirected"), discovered=[discovered])

    def _narrow_folder(self, start_url: str, target: str) -> None:
        """Take a start URL as a folder if it redirects to its slash or below: the folder of /docs is then /docs/, not /."""
        if target.startswith(f"{start_url}/"):
            self.seeds = [replace(seed, url=f"{start_url}/") if seed.url == start_url else seed for seed in self.seeds]

    def _discover(self, url: str, depth: int) -> DiscoveredUrl:
        site, reason = match_seed(url, self.seeds)
        target_host = url_host(url) if url_host(url) in self.hosts else NO_HOST
        if not reason and depth > self.limits[site].max_depth:
            reason = "depth"
        if not reason and target_host == self.name:
            reason = self.trap_guard.skip_reason(url, self.limits[site].max_url_variants)
        return DiscoveredUrl(url, target_host, site, reason, depth=depth)

    def _exceeded_budget(self, site: str) -> str:
        pages, size = self.budget_used.get(self.budget_groups[site], (0, 0))
        if pages >= self.limits[site].max_pages:
            return "page-budget"
        return "byte-budget" if size >= self.limits[site].max_bytes else ""

    def _delay(self, url: str) -> float:
        if self.embedded:
            return 0.0
        policy = self.fetcher.policy
        return max(policy.download_delay_seconds, self.robots.get(url).crawl_delay(policy.max_retry_after_seconds))


def refresh_extraction(cached: CachedPage | None, url: str, extractor: Extractor, store: CrawlStore) -> CachedPage | None:
    """Extract a cached page again if the version of the extractor has changed."""
    if cached is None or cached.extractor_version == extractor.version:
        return cached
    headers, body = store.archive.read_response(cached.location)
    document = extractor.extract(body, cached.content_type, url)
    document = obey_directives(document, [value for name, value in headers if name.lower() == "x-robots-tag"])
    return replace(cached, extractor_version=extractor.version, document=document)


def obey_directives(document: ExtractedDocument, robots_tags: Sequence[str]) -> ExtractedDocument:
    """Apply the robots directives of the HTTP header to a document.

    Those of the document itself were applied when it was extracted.
    """
    directives = parse_directives(robots_tags)
    if document.reason in LINK_ONLY_REASONS:  # no record; a feed is meant for its links
        return document
    links = () if "nofollow" in directives else document.links
    return replace(document, links=links, reason="noindex" if "noindex" in directives else document.reason)


def _location(response: Response) -> str:
    """Return the Location header, which may be UTF-8 without escapes."""
    return response.headers.get("Location", "").encode("latin-1", "replace").decode("utf-8", "replace")


def _redirect_target(url: str, response: Response) -> str | None:
    """Return the normalized target of a redirect; None if there is none."""
    return normalize_url(_location(response), url) if response.status in REDIRECT_STATUSES else None


def _cookies(response: Response) -> str:
    """Return a Cookie header with the cookies that a response sets; "" for none."""
    pairs = (line.partition(";")[0].strip() for line in response.headers.get("Set-Cookie", "").split("\n"))
    return "; ".join(pair for pair in pairs if "=" in pair)


def _skip(entry: FrontierEntry, reason: str, detail: str = "") -> FetchOutcome:
    return FetchOutcome(replace(entry, state="skipped", reason=reason), detail=detail)


def _conditional_headers(cached: CachedPage | None) -> dict[str, str]:
    """Return the headers of a conditional request (RFC 9110, section 13)."""
    validators = {"If-None-Match": cached.etag, "If-Modified-Since": cached.last_modified} if cached else {}
    return {name: value for name, value in validators.items() if value}


def _response_fields(response: Response) -> dict[str, Any]:
    """Return the fields of a frontier entry that a response sets."""
    return {
        "status": response.status,
        "received_bytes": response.received_bytes,
        "attempts": response.attempts,
        "seconds": response.seconds,
    }
