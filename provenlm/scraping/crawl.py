"""Sites, bounds and manners in; every address seen, each with its fate, out, in the order in which they were seen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from provenlm.core import digest
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress
from provenlm.core.record import Fetch, Record
from provenlm.scraping import sitemap
from provenlm.scraping.addresses import Reach
from provenlm.scraping.fetcher import REDIRECTS, Answer, Fetcher, Manners
from provenlm.scraping.reading import Page, Reader
from provenlm.scraping.robots import Robots
from provenlm.scraping.state import QUEUED, Address, Seen, State, Stored
from provenlm.scraping.urls import Bounds, Site, belongs, canonical, origin

MAX_HOPS = 5  # redirects one after the other
SILENT_PAGES = 5  # in a row without an answer: the host is given up for this crawl
REFUSALS = ("private-address", "too-large", "content-type")  # ours; every other failure is theirs
HARMLESS = ("redirected", "noindex", "empty")  # a start may be a mere list of links
Routes = Mapping[str, tuple[str, int]]


def crawl(
    sites: Sequence[Site], bounds: Bounds, manners: Manners, reader: Reader, folder: Path, progress: Progress, routes: Routes
) -> Iterator[Fetch]:
    """Visit what `sites` list and link to, within `bounds`; `folder` keeps what is known between runs and after a kill.

    `routes` leads a host to an address of our own, which is asked without delay. UserError if a start cannot be had, or no page at all.
    """
    identity = digest.of_json([[asdict(site) for site in sites], asdict(bounds), asdict(manners)])
    with State(folder, identity) as state:
        visitor = _Visitor(sites, bounds, manners, reader, state, Fetcher(manners, Reach(manners.allow_private, routes)), routes)
        if state.seen() == 0:
            state.see(visitor.seeds())
        seq = 0
        while (address := state.at(seq)) is not None:
            visit = visitor.settle(address)
            progress.advance(1, note=urlsplit(address.url).path[-40:], total=state.seen())
            yield _fetch(visit)
            seq += 1
        if state.taken()[0] == 0:
            state.abandon()
            raise UserError(f"start: no page of {', '.join(site.name for site in sites)} became a record")
        state.finish()


@dataclass(frozen=True)
class _Visit:
    """What came of one address: its fate, and its page with the response behind it if it is a record."""

    address: Address
    page: Page | None = None
    stored: Stored | None = None
    found: Sequence[Seen] = ()
    detail: str = ""  # for a person


@dataclass
class _Visitor:
    """One crawl at work."""

    sites: Sequence[Site]
    bounds: Bounds
    manners: Manners
    reader: Reader
    state: State
    fetcher: Fetcher
    routes: Routes
    silent: dict[str, int] = field(default_factory=dict)  # origin: pages in a row that it did not answer

    def __post_init__(self) -> None:
        self.robots = Robots(self.fetcher)
        self.pages, self.bytes = self.state.taken()

    def seeds(self) -> list[Seen]:
        """The starts, then what the sitemaps of their hosts list."""
        hosts = {origin(site.url): site.url for site in self.sites}
        listed = [url for start in hosts.values() for url in sitemap.listed(start, self.robots, self.fetcher, self._delay(start))]
        return [*(Seen(site.url, site.name, "") for site in self.sites), *(self._seen(url, 0) for url in listed)]

    def settle(self, address: Address) -> _Visit:
        """The fate of `address`, written down before it is told. UserError if it is a start and cannot be had."""
        if address.state != QUEUED:
            return self._again(address)
        visit = self._visit(address)
        fate = visit.address
        if address.seq < len(self.sites) and fate.state != "record" and fate.reason not in HARMLESS:
            self.state.abandon()
            raise UserError(f"start: {address.site}: {fate.reason}: {visit.detail or 'not for this crawl'}")
        self.state.settle(fate, visit.stored, visit.found)
        if fate.state == "record":
            self.pages, self.bytes = self.pages + 1, self.bytes + fate.size
        return visit

    def _again(self, address: Address) -> _Visit:
        """A fate from before a kill, or of an address refused at sight."""
        stored = self.state.page(address.url) if address.state == "record" else None
        page = self.reader.read(stored.body, stored.content_type, address.url) if stored else None
        return _Visit(address, page, stored)

    def _visit(self, address: Address) -> _Visit:
        if reason := self._spent():
            return _refused(address, reason)
        rules = self.robots.of(address.url)
        if reason := rules.reason_against(address.url):
            return _refused(address, reason, rules.detail())
        host = origin(address.url)
        if self.silent.get(host, 0) >= SILENT_PAGES:
            return _Visit(replace(address, state="failed", reason="host-silent"))
        known = self.state.page(address.url)
        answer = self.fetcher.get(
            address.url, _conditions(known), self.reader.accepts, self.manners.max_page_bytes, self._delay(address.url)
        )
        self.silent[host] = self.silent.get(host, 0) + 1 if answer.status is None else 0
        return self._judged(replace(address, **_measured(answer)), answer, known)

    def _judged(self, address: Address, answer: Answer, known: Stored | None) -> _Visit:
        if answer.status in REDIRECTS:
            return self._redirected(address, answer)
        if answer.reason in REFUSALS:
            return _refused(address, answer.reason, answer.detail)
        if answer.status == 304 and known is not None:
            return self._kept(address, replace(known, etag=answer.headers.get("ETag", known.etag)), known)
        if answer.status != 200 or answer.reason:
            reason = answer.reason or f"http-{answer.status}"
            return _Visit(replace(address, state="failed", reason=reason), detail=answer.detail)
        if "noindex" in answer.headers.get("X-Robots-Tag", "").lower():
            return _refused(address, "noindex")
        headers = answer.headers
        fresh = Stored(
            headers.get("ETag", ""), headers.get("Last-Modified", ""), headers.get("Content-Type", ""), "", {}, answer.body
        )
        return self._kept(address, fresh, known)

    def _kept(self, address: Address, stored: Stored, known: Stored | None) -> _Visit:
        """Read the response. Facts about its content keep the date on which that content was first seen."""
        page = self.reader.read(stored.body, stored.content_type, address.url)
        found = [self._seen(url, address.depth + 1) for url in page.links]
        if not page.index or not page.body.strip():
            return _Visit(replace(address, state="refused", reason="empty" if page.index else "noindex"), found=found)
        content = digest.of_bytes(page.body)
        facts = {"fetched_at": datetime.now(UTC).isoformat(timespec="seconds")}
        stored = replace(stored, digest=content, facts=known.facts if known and known.digest == content else facts)
        return _Visit(replace(address, state="record", size=len(stored.body)), page, stored, found)

    def _redirected(self, address: Address, answer: Answer) -> _Visit:
        """A redirect is followed by queueing its target, so that every hop is judged as any other address is."""
        location = answer.headers.get("Location", "").encode("latin-1", "replace").decode("utf-8", "replace")
        target = canonical(location, address.url)
        if target is None:
            return _refused(address, "redirect-nowhere", f"it redirects to {location!r}")
        seen = replace(self._seen(target, address.depth), hops=address.hops + 1)
        if seen.reason or target == address.url or seen.hops > MAX_HOPS:
            reason = seen.reason or ("loop" if target == address.url else "limit")
            return replace(
                _refused(address, f"redirect-{reason}", f"it redirects to {target}"), found=[seen] if seen.reason else []
            )
        return replace(_refused(address, "redirected"), found=[seen])

    def _seen(self, url: str, depth: int) -> Seen:
        site, reason = belongs(url, self.sites, self.bounds)
        return Seen(url, site, reason or ("depth" if depth > self.bounds.max_depth else ""), depth=depth)

    def _spent(self) -> str:
        if self.pages >= self.bounds.max_pages:
            return "page-budget"
        return "byte-budget" if self.bytes >= self.bounds.max_bytes else ""

    def _delay(self, url: str) -> float:
        if urlsplit(url).hostname in self.routes:
            return 0.0
        return max(self.manners.delay_seconds, self.robots.of(url).delay(self.manners.max_wait_seconds))


def _refused(address: Address, reason: str, detail: str = "") -> _Visit:
    return _Visit(replace(address, state="refused", reason=reason), detail=detail)


def _conditions(known: Stored | None) -> dict[str, str]:
    """Headers that ask for the page only if it is not the one we hold."""
    said = {"If-None-Match": known.etag, "If-Modified-Since": known.modified} if known else {}
    return {name: value for name, value in said.items() if value}


def _measured(answer: Answer) -> dict[str, Any]:
    return {"status": answer.status, "received": answer.received, "tries": answer.tries, "seconds": answer.seconds}


def _fetch(visit: _Visit) -> Fetch:
    address, page, stored = visit.address, visit.page, visit.stored
    record, came = None, ""
    if page is not None and stored is not None:
        record = Record.of(page.body, page.media_type, address.url, site=address.site, **page.facts)
        came = stored.facts.get("fetched_at", "")
    state = cast(Literal["record", "refused", "failed"], address.state)
    return Fetch(address.url, state, address.reason, address.status, address.received, address.tries, address.seconds, record, came)
