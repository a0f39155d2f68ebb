"""Extract the main text, the metadata and the links of an HTML page."""

from dataclasses import dataclass

from resiliparse.parse.html import HTMLTree

from provenlm.scraping.extraction import links
from provenlm.scraping.extraction.main_content import extract_main_text, is_documentation, structured_scripts
from provenlm.scraping.extraction.page_cleaning import clean_page, parse_page
from provenlm.scraping.extraction.page_metadata import PageMetadata, read_page_metadata


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
    tree = parse_page(markup)
    metadata = read_page_metadata(tree, url)
    followable = not metadata.robots & {"nofollow", "none"}
    page_links = tuple(dict.fromkeys(links.page_links(tree, url))) if followable else ()
    indexable, refresh_url = not metadata.robots & {"noindex", "none"}, links.refresh_url(tree, url)
    return ParsedHtml(read_main_text(tree), metadata, page_links, indexable, followable, refresh_url)


def read_main_text(tree: HTMLTree) -> str:
    """Return the main text of a page; cleans `tree`."""
    if tree.body is None or tree.body.tag != "body":
        return ""
    documentation, scripts = is_documentation(tree), structured_scripts(tree)
    clean_page(tree)
    return extract_main_text(tree.body, documentation, scripts)
