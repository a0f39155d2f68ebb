"""A stored response in, what a crawl wants of it out: the text that becomes a record, the facts about it, the links to follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from provenlm.core import hashing
from provenlm.scraping.crawl import urls
from provenlm.scraping.extraction import charset, html, main_content, page_metadata, whitespace
from provenlm.scraping.sources import feed


@dataclass(frozen=True, slots=True)
class Page:
    """What a reader made of a response. `reason`: why it is no record, though there was one to read."""

    body: bytes
    media_type: str
    facts: Mapping[str, Any]
    links: tuple[str, ...]
    reason: str = ""  # noindex: it asks not to be kept; listing: a feed, which only says where to look; empty; unreadable
    canonical: str = ""  # the address that it gives itself, if it gives one


@dataclass(frozen=True)
class Reader:
    """How a domain reads responses: the media types it asks for, and `read(body, content type, address)`.

    What another `version` read is read again from the archive.
    """

    accepts: tuple[str, ...]
    read: Callable[[bytes, str, str], Page]
    version: str

    def page(self, body: bytes, content_type: str, url: str) -> Page:
        """What `read` makes of it; where it cannot, whatever it raises, an unreadable page: no page may end a crawl."""
        try:
            page = self.read(body, content_type, url)
        except Exception:  # a foreign page breaks a parser in ways that nobody lists
            return Page(b"", "", {}, (), "unreadable")
        return page if page.reason or page.body.strip() else replace(page, reason="empty")


def read_text(body: bytes, content_type: str, url: str) -> Page:
    """HTML becomes its main text; plain text and Markdown stay as they are; a feed is links alone. UTF-8, in the page's own normal form."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in feed.MEDIA_TYPES:
        return Page(b"", media_type, {}, tuple(dict.fromkeys(feed.entries(body, url))), "listing")
    text, _ = charset.decoded(body, content_type)
    if media_type not in HTML:
        return Page(text.encode("utf-8", "replace"), media_type, {}, ())
    page = html.read(text, url)
    said = page.about
    known = (("title", said.title), ("lang", said.language), ("date", said.date), ("licence", said.licence))
    facts = {key: value for key, value in known if value}
    return Page(
        page.text.encode("utf-8", "replace"), "text/plain", facts, page.links, "" if page.index else "noindex", said.canonical
    )


def _version() -> str:
    """Of all that decides what becomes of a response: our code and the parsers below it."""
    rooms = [Path(module.__file__ or "") for module in (page_metadata, charset, main_content, html, feed, whitespace, urls)]
    ours = hashing.of_files([*rooms, Path(__file__)], Path(__file__).parents[1])
    return hashing.of_json([ours, *(metadata.version(name) for name in ("beautifulsoup4", "lxml"))])


HTML = ("text/html", "application/xhtml+xml")
TEXT = Reader((*HTML, "text/plain", "text/markdown", *feed.MEDIA_TYPES), read_text, _version())
