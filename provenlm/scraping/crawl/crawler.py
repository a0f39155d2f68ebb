"""Sites and manners in; every address seen, each with its fate, out: host by host, in the order in which its host named them.

Every host has a queue of its own, asked one thing at a time with the pauses that it wants; many hosts are asked at once. What comes out,
and in which order, depends on what the hosts answer and not on which of them was faster.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from provenlm.core import hashing
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress
from provenlm.core.records import Fetch, Record
from provenlm.scraping.crawl.fetcher import Fetcher, Manners
from provenlm.scraping.crawl.frontier import KEPT, NOWHERE, Address
from provenlm.scraping.crawl.host_queue import Lane, current, fate_of
from provenlm.scraping.crawl.network import Reach
from provenlm.scraping.crawl.store import State
from provenlm.scraping.crawl.urls import Site, host
from provenlm.scraping.extraction.reader import Page, Reader

HOSTS_AT_ONCE = 64
Routes = Mapping[str, tuple[str, int]]


def crawl(
    sites: Sequence[Site], manners: Manners, reader: Reader, folder: Path, progress: Progress, routes: Routes, offline: bool
) -> Iterator[Fetch]:
    """Visit what `sites` list and link to, within their bounds; `folder` keeps what is known between runs and after a kill.

    `routes` leads a host to an address of our own, which is asked without delay. `offline` asks nobody and reads again what the last
    crawl kept. UserError if a start cannot be had, or no page at all.
    """
    identity = hashing.of_json([[asdict(site) for site in sites], asdict(manners)])
    hosts = list(dict.fromkeys(host(site.url) for site in sites))
    with State(folder, identity, offline) as state:
        if not offline:
            try:
                _visit_all(sites, hosts, manners, reader, state, progress, routes)
            except UserError:
                state.abandon()
                raise
        records = 0
        for fetch in _told(state, hosts, reader):
            records += fetch.state == "record"
            progress.advance(int(offline), total=state.total)
            yield fetch
        if records == 0:
            state.abandon()
            raise UserError(f"start: no page of {', '.join(site.name for site in sites)} became a record")
        state.finish()


def _visit_all(
    sites: Sequence[Site],
    hosts: Sequence[str],
    manners: Manners,
    reader: Reader,
    state: State,
    progress: Progress,
    routes: Routes,
) -> None:
    """Empty every queue; then let in what one host led to on another, and again, until there is nothing left."""
    stop, lock, reaches = threading.Event(), threading.Lock(), [Reach(manners.allow_private, routes) for _ in hosts]
    fetchers = [Fetcher(manners, reach, stop.wait) for reach in reaches]
    names = frozenset(hosts)
    lanes = [Lane(name, sites, names, reader, state, fetchers[i], name in routes) for i, name in enumerate(hosts)]

    def told(address: Address) -> None:
        with lock:
            settled = state.total - state.queued
            progress.advance(settled - progress.done, note=urlsplit(address.url).path[-40:], total=state.total)

    while True:
        with ThreadPoolExecutor(min(len(lanes), HOSTS_AT_ONCE)) as pool:
            try:
                for done in as_completed([pool.submit(lane.run, stop, told) for lane in lanes]):
                    done.result()
            except BaseException:
                stop.set()
                for reach in reaches:
                    reach.end()
                raise
        if not state.bring_later():
            return


def _told(state: State, hosts: Sequence[str], reader: Reader) -> Iterator[Fetch]:
    """The fate of every address, with the record that it became."""
    for name in hosts:
        for address in state.all(name):
            yield _fetch(address, state, reader)
    for address in sorted(state.all(NOWHERE), key=lambda item: item.url):
        yield _fetch(address, state, reader)


def _fetch(address: Address, state: State, reader: Reader) -> Fetch:
    """What is told of one address. A page that was had may be judged anew here, by a reader that has changed since."""
    stored, record = None, None
    if address.state == "record" or address.reason in KEPT:
        stored = current(state.page(address.url), address.url, reader, state)
    if stored is not None:
        fate, reason = fate_of(stored.page)
        if fate == "record" and _doubled(address.url, stored.page, state, reader):
            fate, reason = "refused", "canonical"
        address = replace(address, state=fate, reason=reason or ("stale" if address.reason == "stale" else ""))
    if stored is not None and address.state == "record":
        page = stored.page
        record = Record.of(page.body, page.media_type, address.url, site=address.site, **page.facts)
    fate = cast(Literal["record", "refused", "failed"], address.state)
    came = stored.fetched_at if stored else ""
    return Fetch(address.url, fate, address.reason, address.status, address.received, address.tries, address.seconds, record, came)


def _doubled(url: str, page: Page, state: State, reader: Reader) -> bool:
    """Does the page name another one as the canonical one of its kind, which is a record that says much the same?

    The name alone would not do: there are sites whose every page names the front page.
    """
    if page.canonical in ("", url) or state.fate(page.canonical) != "record":
        return False
    other = current(state.page(page.canonical), page.canonical, reader, state)
    if other is None or other.page.canonical not in ("", page.canonical):
        return False
    here, there = (set(item.body.splitlines()) - {b""} for item in (page, other.page))
    return 2 * len(here & there) >= len(here)
