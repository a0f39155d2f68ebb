"""One host at work: its queue in, asked in order and politely, each address's fate and what it leads to written down."""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from provenlm.core import hashing
from provenlm.core.errors import UserError
from provenlm.scraping.crawl import sitemap
from provenlm.scraping.crawl.fetcher import REDIRECTS, Answer, Fetcher
from provenlm.scraping.crawl.frontier import NOWHERE, Address, Seen, Stored
from provenlm.scraping.crawl.robots import Robots
from provenlm.scraping.crawl.store import State
from provenlm.scraping.crawl.trap_guard import Variants
from provenlm.scraping.crawl.urls import Site, belongs, canonical, host, origin
from provenlm.scraping.extraction.reader import Page, Reader

MAX_HOPS = 5  # redirects one after the other
SILENT_PAGES = 5  # in a row without an answer: the host is given up for this crawl
REFUSALS = ("private-address", "too-large", "content-type")  # ours; every other failure is theirs
MOMENTARY = re.compile(r"connection|timeout|too-slow|dns|tls|host-silent|robots-unreachable|http-(429|5\d\d)")
HARMLESS = ("redirected", "noindex", "empty", "listing")  # a start may be a mere list of links


@dataclass(frozen=True)
class Visit:
    """What came of one address: its fate, what is kept of its page, and what it leads to."""

    address: Address
    stored: Stored | None = None
    found: Sequence[Seen] = ()
    detail: str = ""  # for a person


class Lane:
    """The queue of one host. `run` ends when it is empty, or soon after `stop` is set."""

    def __init__(
        self,
        name: str,
        sites: Sequence[Site],
        lanes: frozenset[str],
        reader: Reader,
        state: State,
        fetcher: Fetcher,
        embedded: bool,
    ) -> None:
        self.name, self.sites, self.lanes, self.reader, self.state, self.fetcher = name, sites, lanes, reader, state, fetcher
        self.embedded = embedded  # a site of our own, which needs no pauses
        self.starts = [site for site in sites if host(site.url) == name]
        self.robots = Robots(fetcher)
        self.silent: dict[str, int] = {}  # origin: pages in a row that it did not answer
        self.bounds = {site.name: site.bounds for site in sites}
        self.group = {site.name: site.group for site in sites}

    def run(self, stop: threading.Event, told: Callable[[Address], None]) -> None:
        """UserError if a start cannot be had."""
        known = self.state.urls(self.name)
        self.variants = Variants(url for url, _, reason in known if not reason)
        if not known:
            self.state.see(self.name, self._seeds())
        self.taken: dict[int, tuple[int, int]] = {}
        for site, (pages, size) in self.state.taken(self.name).items():
            self._take(site, pages, size)
        seq = 0
        while not stop.is_set() and (address := self.state.next(self.name, seq)) is not None:
            visit = self._stale(self._visit(address))
            if stop.is_set():
                return  # what was under way was broken off: no fate of its own
            self._settle(visit)
            told(address)
            seq = address.seq + 1

    def _seeds(self) -> list[Seen]:
        """The starts, then what the sitemaps of their hosts list, then what a feed listed before."""
        origins = {origin(site.url): site.url for site in self.starts}
        listed = [url for start in origins.values() for url in sitemap.listed(start, self.robots, self.fetcher, self._delay(start))]
        feeds = [site for site in self.starts if site.feed]
        before = [url for url in self.state.pages() if belongs(url, feeds)[1] == ""] if feeds else []
        starts = [Seen(site.url, self.name, site.name, "") for site in self.starts]
        return [*starts, *(self._seen(url, 0) for url in listed), *(self._seen(url, 1) for url in before)]

    def _settle(self, visit: Visit) -> None:
        fate = visit.address
        if fate.seq < len(self.starts) and fate.state != "record" and fate.reason not in HARMLESS:
            raise UserError(f"start: {fate.site}: {fate.reason}: {visit.detail or 'not for this crawl'}")
        self.state.settle(fate, visit.stored, visit.found)
        if fate.state == "record":
            self._take(fate.site, 1, fate.size)

    def _stale(self, visit: Visit) -> Visit:
        """A page that a host could not give for the moment stays as it was at the last crawl. Not so a start: then the site is away."""
        fate = visit.address
        if fate.seq < len(self.starts) or not MOMENTARY.fullmatch(fate.reason):
            return visit
        known = current(self.state.page(fate.url), fate.url, self.reader, self.state)
        if known is None or known.page.reason:
            return visit
        return Visit(replace(fate, state="record", reason="stale", size=known.size), known, self._linked(known.page, fate))

    def _take(self, site: str, pages: int, size: int) -> None:
        before = self.taken.get(self.group[site], (0, 0))
        self.taken[self.group[site]] = before[0] + pages, before[1] + size

    def _visit(self, address: Address) -> Visit:
        if reason := self._spent(address.site):
            return _refused(address, reason)
        rules = self.robots.of(address.url)
        if reason := rules.reason_against(address.url):
            return _refused(address, reason, rules.detail())
        at = origin(address.url)
        if self.silent.get(at, 0) >= SILENT_PAGES:
            return Visit(replace(address, state="failed", reason="host-silent"))
        known = current(self.state.page(address.url), address.url, self.reader, self.state)
        limit = self.fetcher.manners.max_page_bytes
        answer = self.fetcher.get(address.url, _conditions(known), self.reader.accepts, limit, self._delay(address.url))
        self.silent[at] = self.silent.get(at, 0) + 1 if answer.status is None else 0
        return self._judged(replace(address, **_measured(answer)), answer, known)

    def _judged(self, address: Address, answer: Answer, known: Stored | None) -> Visit:
        if answer.status in REDIRECTS:
            return self._redirected(address, answer)
        if answer.reason in REFUSALS:
            return _refused(address, answer.reason, answer.detail)
        if answer.status == 304 and known is not None:
            return self._kept(address, replace(known, etag=answer.headers.get("ETag", known.etag)))
        if answer.status != 200 or answer.reason:
            reason = answer.reason or f"http-{answer.status}"
            return Visit(replace(address, state="failed", reason=reason), detail=answer.detail)
        if "noindex" in answer.headers.get("X-Robots-Tag", "").lower():
            return _refused(address, "noindex")
        return self._came(address, answer, known)

    def _came(self, address: Address, answer: Answer, known: Stored | None) -> Visit:
        """A page in full. What came before, to the byte, is not kept twice."""
        headers, content = answer.headers, hashing.of_bytes(answer.body)
        said = headers.get("ETag", ""), headers.get("Last-Modified", ""), headers.get("Content-Type", "")
        if known is not None and known.digest == content and known.content_type == said[2]:
            return self._kept(address, replace(known, etag=said[0], modified=said[1]))
        page = self.reader.page(answer.body, said[2], address.url)
        if page.reason == "noindex":  # it asks not to be kept
            return replace(_refused(address, "noindex"), found=self._linked(page, address))
        date = datetime.now(UTC).isoformat(timespec="seconds")
        place = self.state.archive.append(address.url, headers, answer.body, date)
        return self._kept(address, Stored(*said, date, content, len(answer.body), place, self.reader.version, page))

    def _kept(self, address: Address, stored: Stored) -> Visit:
        state, reason = fate_of(stored.page)
        address = replace(address, state=state, reason=reason, size=stored.size)
        return Visit(address, stored, self._linked(stored.page, address))

    def _linked(self, page: Page, address: Address) -> list[Seen]:
        links = [*page.links, *([page.canonical] if page.canonical else [])]
        return [self._seen(url, address.depth + 1) for url in links]

    def _redirected(self, address: Address, answer: Answer) -> Visit:
        """A redirect is followed by queueing its target, so that every hop is judged as any other address is."""
        location = answer.headers.get("Location", "").encode("latin-1", "replace").decode("utf-8", "replace")
        target = canonical(location, address.url)
        if target is None:
            return _refused(address, "redirect-nowhere", f"it redirects to {location!r}")
        seen = replace(self._seen(target, address.depth), hops=address.hops + 1)
        if seen.reason or target == address.url or seen.hops > MAX_HOPS:
            reason = seen.reason or ("loop" if target == address.url else "limit")
            refused = _refused(address, f"redirect-{reason}", f"it redirects to {target}")
            return replace(refused, found=[seen] if seen.reason else [])
        return replace(_refused(address, "redirected"), found=[seen])

    def _seen(self, url: str, depth: int) -> Seen:
        site, reason = belongs(url, self.sites)
        lane = host(url) if host(url) in self.lanes else NOWHERE
        if not reason and depth > self.bounds[site].max_depth:
            reason = "depth"
        if not reason and lane == self.name:
            reason = self.variants.reason_against(url, self.bounds[site].max_variants)
        return Seen(url, lane, site, reason, depth=depth)

    def _spent(self, site: str) -> str:
        pages, size = self.taken.get(self.group[site], (0, 0))
        if pages >= self.bounds[site].max_pages:
            return "page-budget"
        return "byte-budget" if size >= self.bounds[site].max_bytes else ""

    def _delay(self, url: str) -> float:
        if self.embedded:
            return 0.0
        manners = self.fetcher.manners
        return max(manners.delay_seconds, self.robots.of(url).delay(manners.max_wait_seconds))


def current(stored: Stored | None, url: str, reader: Reader, state: State) -> Stored | None:
    """What is kept of a page, read by `reader` as it is now: from the archive, where another version read it last."""
    if stored is None or stored.reader == reader.version:
        return stored
    page = reader.page(state.archive.body(stored.place), stored.content_type, url)
    return replace(stored, reader=reader.version, page=page)


def fate_of(page: Page) -> tuple[str, str]:
    """State and reason of a page that was had."""
    return ("failed" if page.reason == "unreadable" else "refused" if page.reason else "record"), page.reason


def _refused(address: Address, reason: str, detail: str = "") -> Visit:
    return Visit(replace(address, state="refused", reason=reason), detail=detail)


def _conditions(known: Stored | None) -> dict[str, str]:
    """Headers that ask for the page only if it is not the one we hold."""
    said = {"If-None-Match": known.etag, "If-Modified-Since": known.modified} if known else {}
    return {name: value for name, value in said.items() if value}


def _measured(answer: Answer) -> dict[str, Any]:
    """What the table of addresses says of an answer."""
    return {"status": answer.status, "received": answer.received, "tries": answer.tries, "seconds": answer.seconds}
