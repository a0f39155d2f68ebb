"""Scrape text.

Sources are any mixture of web sites, feeds, git repositories, folders, tables and WARC files.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from provenlm.core import interfaces
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, FeedLimits, Seed, normalize_url
from provenlm.scraping.extraction.extractor import Extractor
from provenlm.scraping.extraction.text_decoder import TEXT_DECODER
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR
from provenlm.scraping.extraction.topics import Topic, make_tagger
from provenlm.scraping.pydoc_site import site as pydoc_site
from provenlm.scraping.sources.folder import FolderSource
from provenlm.scraping.sources.git import GitSource
from provenlm.scraping.sources.local import fetch_source, named_source, require_record, skip_repeated
from provenlm.scraping.sources.record_folder import RecordFolderSource
from provenlm.scraping.sources.tables import TableSource
from provenlm.scraping.sources.warc import WarcSource, fetch_warc


@dataclass(frozen=True)
class WebSource:
    """Configure a crawl of web sites."""

    kind: Literal["site", "feed"]
    start_urls: tuple[str, ...]
    limits: CrawlLimits = field(default_factory=CrawlLimits)
    license: str | None = None  # of pages that do not name one

    def __post_init__(self) -> None:
        if not self.start_urls:
            raise ValueError("start_urls must contain a URL such as https://docs.python.org/3/ or pydoc:stdlib, got none")
        for url in self.start_urls:
            if normalize_url(_resolve_start_url(url)) is None:
                raise ValueError(f"start_urls must be http(s) URLs or pydoc:NAME, got {url!r}")


@dataclass(frozen=True)
class SiteSource(WebSource):
    """Configure a crawl of sites from their start URLs."""

    kind: Literal["site"]


@dataclass(frozen=True)
class FeedSource(WebSource):
    """Configure a crawl of the entries of RSS or Atom feeds, accumulated over scrapes."""

    kind: Literal["feed"]
    limits: FeedLimits = field(default_factory=FeedLimits)


@dataclass(frozen=True)
class TextScrapeConfig:
    """Configure scraping of text: sources, crawl policy and topics."""

    sources: tuple[SiteSource | FeedSource | GitSource | FolderSource | TableSource | WarcSource | RecordFolderSource, ...]
    crawl_policy: CrawlPolicy = field(default_factory=CrawlPolicy)
    topics: tuple[Topic, ...] = ()
    from_cache: bool = False  # send no requests: extract again from stored responses
    max_page_seconds: float = (
        10.0  # CPU time to extract a page of a site, feed or WARC file; beyond, the page fails with the reason time-limit
    )

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must contain at least one source, got none")
        if self.max_page_seconds <= 0:
            raise ValueError(f"max_page_seconds must be > 0, got {self.max_page_seconds}")
        url_counts = Counter(normalize_url(_resolve_start_url(url)) for source in self.web_sources for url in source.start_urls)
        for url, count in url_counts.items():
            if count > 1:
                raise ValueError(f"sources must list a start URL once, got {url} {count} times")
        if not self.crawl_policy.user_agent_contact and not all(
            _is_pydoc(url) for source in self.web_sources for url in source.start_urls
        ):
            raise ValueError(
                "crawl_policy.user_agent_contact must be a URL or e-mail address for the operators of the web sites, got none"
            )

    @property
    def web_sources(self) -> list[WebSource]:
        """Return the sources that are crawled."""
        return [source for source in self.sources if isinstance(source, WebSource)]


def fetch_records(config: TextScrapeConfig, state: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    """Fetch every URL, file and row, source by source.

    All web sources are one crawl, at the position of the first of them.
    """
    find_topic = make_tagger(config.topics)
    for result in skip_repeated(_fetch_all(config, state, progress)):
        topic = find_topic(result.record) if result.record is not None else ""
        if result.record is not None and topic:
            result = replace(result, record=result.record.with_metadata(topic=topic))
        yield result


def _fetch_all(config: TextScrapeConfig, state: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    max_bytes, crawl_finished = config.crawl_policy.max_response_bytes, False
    extractor = replace(TEXT_EXTRACTOR, max_seconds=config.max_page_seconds)
    for index, source in enumerate(config.sources):
        if isinstance(source, WebSource):
            yield from () if crawl_finished else require_record(_crawl_web_sources(config, extractor, state, progress))
            crawl_finished = True
        elif isinstance(source, WarcSource):
            yield from named_source(index, fetch_warc(source, extractor, max_bytes), progress)
        else:
            yield from named_source(index, fetch_source(source, TEXT_DECODER, state, max_bytes, config.from_cache), progress)


def _crawl_web_sources(
    config: TextScrapeConfig, extractor: Extractor, state: Path, progress: ProgressReporter
) -> Iterator[FetchResult]:
    """Crawl the pages of all web sources."""
    sites, license_by_site = [], {}
    for group, source in enumerate(config.web_sources):
        for url in source.start_urls:
            sites.append(
                Seed(url, normalize_url(_resolve_start_url(url)) or "", source.limits, group, isinstance(source, FeedSource))
            )
            license_by_site[url] = source.license
    packages = [site.name.removeprefix(pydoc_site.SCHEME) for site in sites if _is_pydoc(site.name)]
    with ExitStack() as stack:
        routes = {pydoc_site.HOST: stack.enter_context(pydoc_site.serve(packages))} if packages and not config.from_cache else {}
        for result in crawl(sites, config.crawl_policy, extractor, state, progress, routes, config.from_cache):
            source_license = license_by_site[result.record.metadata["site"]] if result.record else None
            if result.record and source_license and "license" not in result.record.metadata:
                result = replace(result, record=result.record.with_metadata(license=source_license))
            yield result


def _is_pydoc(url: str) -> bool:
    return url.startswith(pydoc_site.SCHEME)


def _resolve_start_url(url: str) -> str:
    return pydoc_site.start_url(url) if _is_pydoc(url) else url


SPEC = interfaces.ScrapeSpec(TextScrapeConfig, fetch_records)
