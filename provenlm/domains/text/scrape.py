"""What the text domain scrapes: web sites, and as `pydoc:NAME` the documentation of what is installed here."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from provenlm.core import plugin
from provenlm.core.progress import Progress
from provenlm.core.record import Fetch
from provenlm.scraping.crawl import crawl
from provenlm.scraping.fetcher import Manners
from provenlm.scraping.pydoc_site import site as pydoc_site
from provenlm.scraping.reading import TEXT
from provenlm.scraping.urls import Bounds, Site, canonical


@dataclass(frozen=True)
class Settings:
    """Where to start, how far to go, and how to behave on the way."""

    start: tuple[str, ...]
    bounds: Bounds
    manners: Manners
    offline: bool  # ask nobody: read again what the last crawl kept, as when extraction was improved

    def __post_init__(self) -> None:
        if not self.start:
            raise ValueError("start: name at least one address, such as https://docs.python.org/3/ or pydoc:stdlib")
        for start in self.start:
            if canonical(_url(start)) is None:
                raise ValueError(f"start: {start!r} is neither an http(s) address nor pydoc:NAME")
        if not self.manners.contact and not all(map(_embedded, self.start)):
            raise ValueError("manners.contact: name an address at which the operator of a web site can reach you")


def fetch(settings: Settings, state: Path, progress: Progress) -> Iterator[Fetch]:
    """What became of every address of the sites, and of the pages that they link to."""
    sites = [Site(start, canonical(_url(start)) or "", settings.bounds) for start in settings.start]
    packages = [start.removeprefix(pydoc_site.SCHEME) for start in settings.start if _embedded(start)]
    with ExitStack() as stack:
        routes = {pydoc_site.HOST: stack.enter_context(pydoc_site.serve(packages))} if packages else {}
        yield from crawl(sites, settings.manners, TEXT, state, progress, routes, settings.offline)


def _embedded(start: str) -> bool:
    return start.startswith(pydoc_site.SCHEME)


def _url(start: str) -> str:
    return pydoc_site.url_of(start) if _embedded(start) else start


FACE = plugin.Scraping(Settings, fetch)
