"""Crawl several hosts at once and yield one result per URL, host by host.

Each host has its own queue: one request at a time, with the delay that the host asks for. The results and their order depend on the
responses alone, never on which host answered first.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from provenlm.core import hashing
from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.scraping.crawl.database import readable_errors
from provenlm.scraping.crawl.fetcher import CrawlPolicy, Fetcher
from provenlm.scraping.crawl.frontier import CACHED_REASONS, NO_HOST, FrontierEntry
from provenlm.scraping.crawl.host_queue import HostQueue, refresh_extraction
from provenlm.scraping.crawl.network import NetworkPolicy
from provenlm.scraping.crawl.store import CrawlStore
from provenlm.scraping.crawl.urls import Seed, url_host
from provenlm.scraping.extraction.bounded_worker import end_running_calls
from provenlm.scraping.extraction.extractor import ExtractedDocument, Extractor, outcome_of

MAX_CONCURRENT_HOSTS = 64
Routes = Mapping[str, tuple[str, int]]


def crawl(
    seeds: Sequence[Seed],
    policy: CrawlPolicy,
    extractor: Extractor,
    folder: Path,
    progress: ProgressReporter,
    routes: Routes,
    from_cache: bool,
) -> Iterator[FetchResult]:
    """Crawl from `seeds` within their limits and yield the result of each URL.

    `folder` keeps the crawl state between runs and after a kill. Once the caller has stored the results, `mark_delivered` ends the
    crawl; until then the next one yields the same results without a request. `routes` maps a host to a loopback address and port; it is
    fetched without delay. With `from_cache` no request is sent: the stored responses of the last crawl are extracted again.
    Raises DataError if a start URL cannot be fetched or if no page became a record.
    """
    identity = hashing.sha256_json([[asdict(seed) for seed in seeds], asdict(policy)])
    hosts = list(dict.fromkeys(url_host(seed.url) for seed in seeds))
    with readable_errors(folder), CrawlStore(folder, identity, from_cache) as store:
        if not from_cache:
            try:
                _crawl_hosts(seeds, hosts, policy, extractor, store, progress, routes)
            except ProvenlmError:
                store.abandon()
                raise
        records = 0
        for fetch in _fetch_results(store, hosts, extractor):
            records += fetch.state == "record"
            progress.update(int(from_cache), total=store.total)
            yield fetch
        if records == 0:
            store.abandon()
            raise DataError(f"start_urls: no page of {', '.join(seed.name for seed in seeds)} became a record")
        store.mark_fetched()


def _crawl_hosts(
    seeds: Sequence[Seed],
    hosts: Sequence[str],
    policy: CrawlPolicy,
    extractor: Extractor,
    store: CrawlStore,
    progress: ProgressReporter,
    routes: Routes,
) -> None:
    """Run every host queue and enqueue links between hosts, until no URL is left."""
    stop, lock, network_policies = (
        threading.Event(),
        threading.Lock(),
        [NetworkPolicy(policy.allowed_private_hosts, routes) for _ in hosts],
    )
    fetchers = [Fetcher(policy, network_policy, stop.wait) for network_policy in network_policies]
    host_names = frozenset(hosts)
    queues = [HostQueue(name, seeds, host_names, extractor, store, fetchers[i], name in routes) for i, name in enumerate(hosts)]

    def report_progress(entry: FrontierEntry) -> None:
        with lock:
            num_finished = store.total - store.queued
            progress.update(num_finished - progress.num_done, postfix=urlsplit(entry.url).path[-40:], total=store.total)

    while True:
        with ThreadPoolExecutor(min(len(queues), MAX_CONCURRENT_HOSTS)) as pool:
            try:
                for future in as_completed([pool.submit(queue.run, stop, report_progress) for queue in queues]):
                    future.result()
            except BaseException:
                stop.set()
                for network_policy in network_policies:
                    network_policy.close()
                end_running_calls()
                raise
        if not store.enqueue_deferred():
            return


def _fetch_results(store: CrawlStore, hosts: Sequence[str], extractor: Extractor) -> Iterator[FetchResult]:
    """Yield the result of every URL, with its record if it became one."""
    for name in hosts:
        for entry in store.entries(name):
            yield _fetch_result(entry, store, extractor)
    for entry in sorted(store.entries(NO_HOST), key=lambda item: item.url):
        yield _fetch_result(entry, store, extractor)


def _fetch_result(entry: FrontierEntry, store: CrawlStore, extractor: Extractor) -> FetchResult:
    """Return the result of one URL, extracted again if the extractor has changed."""
    cached, record = None, None
    if entry.state == "record" or entry.reason in CACHED_REASONS:
        cached = refresh_extraction(store.cached_page(entry.url), entry.url, extractor, store)
    if cached is not None:
        outcome, reason = outcome_of(cached.document)
        if outcome == "record" and _duplicates_canonical(entry.url, cached.document, store, extractor):
            outcome, reason = "skipped", "canonical"
        entry = replace(entry, state=outcome, reason=reason or ("stale" if entry.reason == "stale" else ""))
    if cached is not None and entry.state == "record":
        document = cached.document
        record = Record.from_content(document.content, document.media_type, entry.url, site=entry.site, **document.metadata)
    outcome = cast(Literal["record", "skipped", "failed"], entry.state)
    fetched_at = cached.fetched_at if cached else ""
    return FetchResult(
        entry.url, outcome, entry.reason, entry.status, entry.received_bytes, entry.attempts, entry.seconds, record, fetched_at
    )


def _duplicates_canonical(url: str, document: ExtractedDocument, store: CrawlStore, extractor: Extractor) -> bool:
    """Return whether the canonical URL of a page is a record with the same text.

    The same text: at least half of the lines of the page. The link alone is not enough: on some sites every page declares
    the front page as canonical.
    """
    if document.canonical_url in ("", url) or store.state_of(document.canonical_url) != "record":
        return False
    canonical_page = refresh_extraction(store.cached_page(document.canonical_url), document.canonical_url, extractor, store)
    if canonical_page is None or canonical_page.document.canonical_url not in ("", document.canonical_url):
        return False
    own_lines, canonical_lines = (set(item.content.splitlines()) - {b""} for item in (document, canonical_page.document))
    return 2 * len(own_lines & canonical_lines) >= len(own_lines)
