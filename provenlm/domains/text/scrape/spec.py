"""What the text domain scrapes: web sites and feeds, git repositories, folders, tables and WARC files, in any mixture."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from provenlm.core import interfaces
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress
from provenlm.core.records import Fetch
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import Manners
from provenlm.scraping.crawl.urls import Bounds, Site, canonical
from provenlm.scraping.extraction import topics as taxonomy
from provenlm.scraping.extraction.reader import TEXT
from provenlm.scraping.pydoc_site import site as pydoc_site
from provenlm.scraping.sources import folder, git, tables, warc


@dataclass(frozen=True)
class Web:
    """Pages of web sites. A `feed`: what RSS or Atom feeds list, and went on listing from scrape to scrape."""

    kind: Literal["site", "feed"]
    start: tuple[str, ...]
    bounds: Bounds
    licence: str | None  # of pages that name none themselves

    def __post_init__(self) -> None:
        if not self.start:
            raise ValueError("start: name at least one address, such as https://docs.python.org/3/ or pydoc:stdlib")
        for start in self.start:
            if canonical(_url(start)) is None:
                raise ValueError(f"start: {start!r} is neither an http(s) address nor pydoc:NAME")


@dataclass(frozen=True)
class Settings:
    """Where text comes from, how to behave on the way, and by which domains to sort it."""

    sources: tuple[Web | git.Git | folder.Folder | tables.Table | warc.Warc, ...]
    manners: Manners
    taxonomy: tuple[taxonomy.Domain, ...]
    offline: bool  # ask nobody: read again what the last scrape kept, as when extraction was improved

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: name at least one")
        starts = Counter(canonical(_url(start)) for web in self.web for start in web.start)
        for start, count in starts.items():
            if count > 1:
                raise ValueError(f"sources: {start} is named as a start {count} times")
        if not self.manners.contact and not all(_embedded(start) for web in self.web for start in web.start):
            raise ValueError("manners.contact: name an address at which the operator of a web site can reach you")

    @property
    def web(self) -> list[Web]:
        return [source for source in self.sources if isinstance(source, Web)]


def fetch(settings: Settings, state: Path, progress: Progress) -> Iterator[Fetch]:
    """What became of every address, file and row, source by source; all web sites are one crawl, in the place of the first of them."""
    tag = taxonomy.tagger(settings.taxonomy)
    seen: Counter[str] = Counter()
    for found in _all(settings, state, progress):
        seen[found.url] += 1
        if seen[found.url] > 1:  # two sources have it: the first one's stands
            yield replace(found, url=f"{found.url} ({seen[found.url]})", state="refused", reason="repeated", record=None)
        elif found.record is not None and (domain := tag(found.record)):
            yield replace(found, record=found.record.with_facts(domain=domain))
        else:
            yield found


def _all(settings: Settings, state: Path, progress: Progress) -> Iterator[Fetch]:
    limit, crawled = settings.manners.max_page_bytes, False
    for place, source in enumerate(settings.sources):
        if isinstance(source, Web):
            yield from () if crawled else _crawled(settings, state, progress)
            crawled = True
            continue
        try:
            for found in _local(source, state, limit, settings.offline):
                progress.advance(note=found.url[-40:])
                yield found
        except UserError as error:
            raise UserError(f"sources[{place}]: {error}") from None


def _local(source: git.Git | folder.Folder | tables.Table | warc.Warc, state: Path, limit: int, offline: bool) -> Iterator[Fetch]:
    if isinstance(source, git.Git):
        return git.fetch(source, state / "git", limit, offline)
    if isinstance(source, folder.Folder):
        return folder.fetch(source, limit)
    return tables.fetch(source, limit) if isinstance(source, tables.Table) else warc.fetch(source, TEXT, limit)


def _crawled(settings: Settings, state: Path, progress: Progress) -> Iterator[Fetch]:
    """The pages of all web sites and feeds."""
    sites, licences = [], {}
    for group, web in enumerate(settings.web):
        for start in web.start:
            sites.append(Site(start, canonical(_url(start)) or "", web.bounds, group, web.kind == "feed"))
            licences[start] = web.licence
    packages = [site.name.removeprefix(pydoc_site.SCHEME) for site in sites if _embedded(site.name)]
    with ExitStack() as stack:
        routes = {pydoc_site.HOST: stack.enter_context(pydoc_site.serve(packages))} if packages and not settings.offline else {}
        for found in crawl(sites, settings.manners, TEXT, state, progress, routes, settings.offline):
            licence = licences[found.record.facts["site"]] if found.record else None
            if found.record and licence and "licence" not in found.record.facts:
                found = replace(found, record=found.record.with_facts(licence=licence))
            yield found


def _embedded(start: str) -> bool:
    return start.startswith(pydoc_site.SCHEME)


def _url(start: str) -> str:
    return pydoc_site.url_of(start) if _embedded(start) else start


SPEC = interfaces.Scraping(Settings, fetch)
