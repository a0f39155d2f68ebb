"""Read the title, language, date, license and robots directives of a page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from resiliparse.parse.html import DocumentNode, ElementNode, HTMLTree

from provenlm.scraping.crawl.robots_directives import PRODUCT_TOKEN, parse_directives
from provenlm.scraping.crawl.urls import normalize_url
from provenlm.scraping.extraction.page_cleaning import select, text_of

DATE_PROPERTIES = {
    "article:published_time", "og:published_time", "datepublished", "date", "dc.date", "dc.date.issued", "dcterms.date",
    "dcterms.created", "dcterms.issued", "citation_publication_date", "citation_date", "pubdate", "publish-date", "sailthru.date",
}  # fmt: skip
JSON_LD_DATE = re.compile(r'"datePublished"\s*:\s*"([^"]{10,40})"')  # JSON-LD, schema.org
ISO_DATE = re.compile(r"((?:19|20)\d\d)[-/.](\d\d)[-/.](\d\d)(?!\d)")


@dataclass(frozen=True, slots=True)
class PageMetadata:
    """Hold the metadata of one page; "" for a missing value."""

    title: str
    language: str
    date: str  # of publication, ISO 8601, without time
    license_url: str  # target of rel="license"
    canonical_url: str  # normalized target of rel="canonical"
    robots: frozenset[str]  # directives of its robots meta elements


def read_page_metadata(tree: HTMLTree, url: str) -> PageMetadata:
    """Read the metadata of the page at `url` from its tree."""
    document = tree.document
    root, title = next(iter(select(document, "html")), None), next(iter(select(document, "title")), None)
    language = (root.getattr("lang") or root.getattr("xml:lang") or "").strip() if root is not None else ""
    name = " ".join(text_of(title).split()) if title is not None else ""
    metas = select(document, "meta")
    robots = (tag.getattr("content") or "" for tag in metas if (tag.getattr("name") or "").lower() in ("robots", PRODUCT_TOKEN))
    words = parse_directives(robots)
    links = [tag for tag in select(document, "link[rel][href], a[rel][href]") if tag.getattr("href")]
    license_url, canonical_url = _href(links, "license", {"link", "a"}, url), _href(links, "canonical", {"link"}, url)
    return PageMetadata(name, language, next(_publication_dates(document, metas), ""), license_url, canonical_url, words)


def _href(links: list[ElementNode], relation: str, names: set[str], url: str) -> str:
    for tag in links:
        if tag.tag in names and relation in (tag.getattr("rel") or "").lower().split():
            return normalize_url(tag.getattr("href") or "", url) or ""
    return ""


def _publication_dates(document: DocumentNode | None, metas: list[ElementNode]) -> Iterator[str]:
    """Yield candidate dates of publication, the most explicit first."""
    for tag in metas:
        name = (tag.getattr("property") or tag.getattr("name") or tag.getattr("itemprop") or "").lower()
        if name in DATE_PROPERTIES and (day := parse_date(tag.getattr("content") or "")):
            yield day
    for script in select(document, 'script[type="application/ld+json"]'):
        match = JSON_LD_DATE.search(text_of(script))
        if match and (day := parse_date(match[1])):
            yield day
    times = [tag for tag in select(document, "time[datetime]") if tag.getattr("datetime")]
    for tag in times:
        explicit = tag.hasattr("pubdate") or tag.getattr("itemprop") == "datePublished" or len(times) == 1
        if explicit and (day := parse_date(tag.getattr("datetime") or "")):
            yield day


def parse_date(text: str) -> str:
    """Parse a date such as `2026-03-01T12:00:00Z` or `2026/03/01`; "" if invalid."""
    match = ISO_DATE.match(text.strip())
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).isoformat() if match else ""
    except ValueError:
        return ""
