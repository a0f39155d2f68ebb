"""Serve web sites on loopback and crawl them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback_site import LoopbackSite

from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.database import mark_delivered
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.extractor import Extractor
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR


@pytest.fixture
def web() -> Iterator[LoopbackSite]:
    site = LoopbackSite()
    yield site
    site.stop()


@pytest.fixture
def webs() -> Iterator[list[LoopbackSite]]:
    """Serve three sites on different hosts."""
    sites = [LoopbackSite(f"127.0.0.{number}") for number in (1, 2, 3)]
    yield sites
    for web in sites:
        web.stop()


@pytest.fixture
def other_web() -> Iterator[LoopbackSite]:
    site = LoopbackSite()
    yield site
    site.stop()


Crawl = Callable[..., dict[str, FetchResult]]


@pytest.fixture
def crawl_site(web: LoopbackSite, tmp_path: Path) -> Crawl:
    """Return a function that crawls `web`; keyword arguments replace fields of the limits and of the policy."""

    def run(
        start: str = "/", from_cache: bool = False, extractor: Extractor = TEXT_EXTRACTOR, **changed: object
    ) -> dict[str, FetchResult]:
        limits = {
            "scope": "host",
            "include": (),
            "exclude": (),
            "max_pages": 100,
            "max_bytes": 1 << 24,
            "max_depth": 9,
            "max_url_variants": 99,
        }
        policy = {
            "user_agent_contact": "", "download_delay_seconds": 0.0, "timeout_seconds": 5.0, "max_attempts": 3, "max_retry_after_seconds": 2.0,
            "max_response_bytes": 1 << 20, "allowed_private_hosts": ("127.0.0.1",),
        }  # fmt: skip
        limits |= {name: value for name, value in changed.items() if name in limits}
        policy |= {name: value for name, value in changed.items() if name in policy}
        seeds = [Seed(f"{web.url}{start}", f"{web.url}{start}", CrawlLimits(**limits))]
        fetches = crawl(
            seeds, CrawlPolicy(**policy), extractor, tmp_path / "state", ProgressReporter("crawl", "pages", None), {}, from_cache
        )
        results: dict[str, FetchResult] = {}
        for fetch in fetches:
            path = fetch.url.removeprefix(web.url)
            assert path not in results, f"{path} has two outcomes"
            results[path] = fetch
        mark_delivered(tmp_path / "state")
        return results

    return run
