"""Extract the main text, the metadata and the links of an HTML page."""

import re
from dataclasses import dataclass

from lxml import etree
from resiliparse.parse.html import HTMLTree

from provenlm.scraping.extraction import links
from provenlm.scraping.extraction.main_content import extract_main_text
from provenlm.scraping.extraction.page_metadata import PageMetadata, read_page_metadata

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
    refresh_url: str = ""  # normalized URL of another page that this one forwards to


def read_html(markup: str, url: str) -> ParsedHtml:
    """Parse the page `markup` of the normalized URL `url`."""
    root = parse_html(markup)
    metadata = read_page_metadata(root, url)
    followable = not metadata.robots & {"nofollow", "none"}
    tree = HTMLTree.parse(markup)
    page_links = tuple(dict.fromkeys(links.page_links(tree, url))) if followable else ()
    indexable = not metadata.robots & {"noindex", "none"}
    return ParsedHtml(extract_main_text(root), metadata, page_links, indexable, followable, links.refresh_url(tree, url))


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
