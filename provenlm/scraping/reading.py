"""A stored response in, what a crawl wants of it out: the text that becomes a record, the facts about it, the links to follow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provenlm.scraping import charset, extract


@dataclass(frozen=True, slots=True)
class Page:
    """What a reader made of a response. An empty body becomes no record; nor does one that asks not to be kept."""

    body: bytes
    media_type: str
    facts: Mapping[str, Any]
    links: tuple[str, ...]
    index: bool = True


@dataclass(frozen=True)
class Reader:
    """How a domain reads responses: the media types it asks for, and `read(body, content type, address)`."""

    accepts: tuple[str, ...]
    read: Callable[[bytes, str, str], Page]


def read_text(body: bytes, content_type: str, url: str) -> Page:
    """HTML becomes its main text; plain text and Markdown stay as they are. UTF-8, in the page's own normal form."""
    text, _ = charset.decoded(body, content_type)
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in ("text/html", "application/xhtml+xml"):
        return Page(text.encode("utf-8", "replace"), media_type, {}, ())
    page = extract.read(text, url)
    facts = {key: value for key, value in (("title", page.title), ("lang", page.language)) if value}
    return Page(page.text.encode("utf-8", "replace"), "text/plain", facts, page.links, page.index)


TEXT = Reader(("text/html", "application/xhtml+xml", "text/plain", "text/markdown"), read_text)
