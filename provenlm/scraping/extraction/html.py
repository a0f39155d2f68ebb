"""An HTML page in; its main text, what it says about itself, and its links out. Code keeps every blank, navigation goes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from lxml import etree

from provenlm.scraping.crawl.urls import link_normalizer, normalize_url
from provenlm.scraping.extraction import page_metadata as about
from provenlm.scraping.extraction.main_content import extract_main_text
from provenlm.scraping.extraction.page_metadata import PageMetadata

MAX_LINKS = 5000  # of one page; more is a trap
END_TAGS = re.compile(
    r"</(?:html|body)\s*>", re.IGNORECASE
)  # what follows them belongs to the page all the same; libxml2 sets it apart


@dataclass(frozen=True, slots=True)
class ParsedHtml:
    """What one HTML page says."""

    text: str
    metadata: PageMetadata
    links: tuple[str, ...]  # canonical, in page order, each once
    indexable: bool  # may its content be kept, and
    followable: bool  # may its links be followed, by its robots meta element


def read_html(markup: str, url: str) -> ParsedHtml:
    """Read the page `markup`, found at the canonical address `url`."""
    root = parse_html(markup)
    metadata = about.read_page_metadata(root, url)
    followable = not metadata.robots & {"nofollow", "none"}
    links = tuple(dict.fromkeys(_links(root, url))) if followable else ()
    return ParsedHtml(extract_main_text(root), metadata, links, not metadata.robots & {"noindex", "none"}, followable)


def parse_html(markup: str) -> etree._Element:
    """The page as a tree, mended as libxml2 mends it. It builds no deeper than 2048 elements: deeper pages are built from its events."""
    body = END_TAGS.sub("", markup.replace("\0", "\ufffd")).encode("utf-8", "replace")
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    root = etree.fromstring(body, parser) if body.strip() else None
    if any("Excessive depth" in error.message for error in parser.error_log):
        root = etree.fromstring(body, etree.HTMLParser(encoding="utf-8", huge_tree=True, target=etree.TreeBuilder()))
    return root if root is not None else etree.Element("html")


def _links(root: etree._Element, url: str) -> Iterator[str]:
    base = next((tag for tag in root.iter("base") if tag.get("href")), None)
    base_url = normalize_url(base.get("href"), url) or url if base is not None else url
    tags = islice((tag for tag in root.iter("a") if tag.get("href") is not None), MAX_LINKS)
    hrefs = (tag.get("href") for tag in tags if "nofollow" not in tag.get("rel", "").split())
    normalize = link_normalizer(base_url)
    for link in dict.fromkeys(link.partition("#")[0] for link in hrefs):
        if (absolute_url := normalize(link)) is not None:
            yield absolute_url
