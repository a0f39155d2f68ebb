"""Extract the main text, the metadata and the links of an HTML page."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from resiliparse.parse.html import HTMLTree

from provenlm.scraping.crawl.urls import link_normalizer, normalize_url
from provenlm.scraping.extraction.main_content import extract_main_text, is_documentation, structured_scripts
from provenlm.scraping.extraction.page_cleaning import clean_page, parse_page, select
from provenlm.scraping.extraction.page_metadata import PageMetadata, read_page_metadata

MAX_LINKS = 5000  # per page; more indicate a crawler trap


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
    tree = parse_page(markup)
    metadata = read_page_metadata(tree, url)
    followable = not metadata.robots & {"nofollow", "none"}
    links = tuple(dict.fromkeys(_links(tree, url))) if followable else ()
    return ParsedHtml(read_main_text(tree), metadata, links, not metadata.robots & {"noindex", "none"}, followable)


def read_main_text(tree: HTMLTree) -> str:
    """Return the main text of a page; cleans `tree`."""
    if tree.body is None or tree.body.tag != "body":
        return ""
    documentation, scripts = is_documentation(tree), structured_scripts(tree)
    clean_page(tree)
    return extract_main_text(tree.body, documentation, scripts)


def _links(tree: HTMLTree, url: str) -> Iterator[str]:
    base = next((tag for tag in select(tree.document, "base[href]") if tag.getattr("href")), None)
    base_url = normalize_url(base.getattr("href") or "", url) or url if base is not None else url
    tags = islice(select(tree.document, "a[href]"), MAX_LINKS)
    hrefs = (tag.getattr("href") or "" for tag in tags if "nofollow" not in (tag.getattr("rel") or "").split())
    normalize = link_normalizer(base_url)
    for link in dict.fromkeys(link.partition("#")[0] for link in hrefs):
        if (absolute_url := normalize(link)) is not None:
            yield absolute_url
