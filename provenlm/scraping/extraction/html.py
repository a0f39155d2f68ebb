"""Extract the main text, the metadata and the links of an HTML page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from lxml import etree

from provenlm.scraping.crawl.urls import link_normalizer, normalize_url
from provenlm.scraping.extraction.main_content import extract_main_text
from provenlm.scraping.extraction.page_metadata import PageMetadata, read_page_metadata

MAX_LINKS = 5000  # per page; more indicate a crawler trap
# Text after these tags belongs to the page; libxml2 would separate it.
END_TAGS = re.compile(r"</(?:html|body)\s*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParsedHtml:
    """Hold the content of one HTML page."""

    text: str
    metadata: PageMetadata
    links: tuple[str, ...]  # normalized, in page order, without duplicates
    indexable: bool  # False for robots meta noindex
    followable: bool  # False for robots meta nofollow


def read_html(markup: str, url: str) -> ParsedHtml:
    """Parse the page `markup` of the normalized URL `url`."""
    root = parse_html(markup)
    metadata = read_page_metadata(root, url)
    followable = not metadata.robots & {"nofollow", "none"}
    links = tuple(dict.fromkeys(_links(root, url))) if followable else ()
    return ParsedHtml(extract_main_text(root), metadata, links, not metadata.robots & {"noindex", "none"}, followable)


def parse_html(markup: str) -> etree._Element:
    """Parse HTML into a tree, with the error recovery of libxml2.

    libxml2 builds at most 2048 levels; deeper pages are built from its parser events.
    """
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
