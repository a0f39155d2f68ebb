"""Read the title, language, date, license and robots directives of a page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from lxml import etree

from provenlm.scraping.crawl.robots_directives import PRODUCT_TOKEN, parse_directives
from provenlm.scraping.crawl.urls import normalize_url

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


def read_page_metadata(root: etree._Element, url: str) -> PageMetadata:
    """Read the metadata of the page at `url` from its tree."""
    title = next(root.iter("title"), None)
    language = (root.get("lang") or root.get("xml:lang") or "").strip()
    name = " ".join("".join(title.itertext()).split()) if title is not None else ""
    metas = list(root.iter("meta"))
    words = parse_directives(tag.get("content", "") for tag in metas if tag.get("name", "").lower() in ("robots", PRODUCT_TOKEN))
    links = [tag for tag in root.iter("link", "a") if tag.get("rel") and tag.get("href")]
    license_url, canonical_url = _href(links, "license", {"link", "a"}, url), _href(links, "canonical", {"link"}, url)
    return PageMetadata(name, language, next(_publication_dates(root, metas), ""), license_url, canonical_url, words)


def _href(links: list[etree._Element], relation: str, names: set[str], url: str) -> str:
    for tag in links:
        if tag.tag in names and relation in tag.get("rel").lower().split():
            return normalize_url(tag.get("href"), url) or ""
    return ""


def _publication_dates(root: etree._Element, metas: list[etree._Element]) -> Iterator[str]:
    """Yield candidate dates of publication, the most explicit first."""
    for tag in metas:
        name = (tag.get("property") or tag.get("name") or tag.get("itemprop") or "").lower()
        if name in DATE_PROPERTIES and (day := parse_date(tag.get("content", ""))):
            yield day
    for script in root.iter("script"):
        match = JSON_LD_DATE.search(script.text or "") if script.get("type") == "application/ld+json" else None
        if match and (day := parse_date(match[1])):
            yield day
    times = [tag for tag in root.iter("time") if tag.get("datetime")]
    for tag in times:
        explicit = "pubdate" in tag.attrib or tag.get("itemprop") == "datePublished" or len(times) == 1
        if explicit and (day := parse_date(tag.get("datetime"))):
            yield day


def parse_date(text: str) -> str:
    """Parse a date such as `2026-03-01T12:00:00Z` or `2026/03/01`; "" if invalid."""
    match = ISO_DATE.match(text.strip())
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).isoformat() if match else ""
    except ValueError:
        return ""
