"""A parsed HTML page in; out, what it says about itself: title, language, date, licence, its canonical address, what robots may do."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from bs4 import BeautifulSoup
from bs4.element import Tag

from provenlm.scraping.urls import canonical

DATED = {
    "article:published_time", "og:published_time", "datepublished", "date", "dc.date", "dc.date.issued", "dcterms.date",
    "dcterms.created", "dcterms.issued", "citation_publication_date", "citation_date", "pubdate", "publish-date", "sailthru.date",
}  # fmt: skip
PUBLISHED = re.compile(r'"datePublished"\s*:\s*"([^"]{10,40})"')  # JSON-LD, schema.org
DAY = re.compile(r"((?:19|20)\d\d)[-/.](\d\d)[-/.](\d\d)(?!\d)")


@dataclass(frozen=True, slots=True)
class About:
    """ "" stands for what the page does not say."""

    title: str
    language: str
    date: str  # of publication, ISO 8601, a day
    licence: str  # the address of the licence, as the page links to it
    canonical: str  # its canonical address in ours
    robots: frozenset[str]  # the words of its robots meta elements


def read(soup: BeautifulSoup, url: str) -> About:
    """What the page at `url` says of itself."""
    title = soup.find("title")
    root = soup.find("html")
    language = str(root.get("lang") or root.get("xml:lang") or "").strip() if isinstance(root, Tag) else ""
    name = " ".join(title.get_text().split()) if title else ""
    metas = [tag for tag in soup.find_all("meta") if isinstance(tag, Tag)]
    robots = (str(tag.get("content") or "") for tag in metas if str(tag.get("name") or "").lower() in ("robots", "provenlm"))
    words = frozenset(word.strip().lower() for said in robots for word in said.split(","))
    links = [tag for tag in soup.find_all(["link", "a"], rel=True) if isinstance(tag, Tag)]
    licence, own = _href(links, "license", {"link", "a"}, url), _href(links, "canonical", {"link"}, url)
    return About(name, language, next(_dates(soup, metas), ""), licence, own, words)


def _href(links: list[Tag], relation: str, names: set[str], url: str) -> str:
    for tag in links:
        said = tag.get("rel") or ()
        if (
            tag.name in names
            and tag.get("href")
            and relation in ([said] if isinstance(said, str) else [word.lower() for word in said])
        ):
            return canonical(str(tag["href"]), url) or ""
    return ""


def _dates(soup: BeautifulSoup, metas: list[Tag]) -> Iterator[str]:
    """Days that the page gives as that of its publication, the most explicit first."""
    for tag in metas:
        name = str(tag.get("property") or tag.get("name") or tag.get("itemprop") or "").lower()
        if name in DATED and (day := iso_day(str(tag.get("content") or ""))):
            yield day
    for script in soup.find_all("script", type="application/ld+json"):
        found = PUBLISHED.search(script.get_text())
        if found and (day := iso_day(found[1])):
            yield day
    times = [tag for tag in soup.find_all("time", datetime=True) if isinstance(tag, Tag)]
    for tag in times:
        if (tag.has_attr("pubdate") or tag.get("itemprop") == "datePublished" or len(times) == 1) and (
            day := iso_day(str(tag["datetime"]))
        ):
            yield day


def iso_day(said: str) -> str:
    """`2026-03-01` from `2026-03-01T12:00:00Z` or `2026/03/01`; "" for what is no day."""
    found = DAY.match(said.strip())
    try:
        return date(int(found[1]), int(found[2]), int(found[3])).isoformat() if found else ""
    except ValueError:
        return ""
