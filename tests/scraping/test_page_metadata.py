import pytest

from provenlm.scraping.extraction import page_metadata
from provenlm.scraping.extraction.page_cleaning import parse_page


def metadata_of(head: str, body: str = "") -> page_metadata.PageMetadata:
    return page_metadata.read_page_metadata(
        parse_page(f"<html lang='de'><head>{head}</head><body>{body}</body></html>"), "http://h/d/p.html"
    )


def test_a_page_without_metadata_has_empty_fields() -> None:
    assert page_metadata.read_page_metadata(parse_page("<p>x"), "http://h/") == page_metadata.PageMetadata(
        "", "", "", "", "", frozenset()
    )


@pytest.mark.parametrize(
    "head",
    [
        '<meta property="article:published_time" content="2026-03-01T12:00:00+01:00">',
        '<meta name="DC.Date" content="2026-03-01">',
        '<meta itemprop="datePublished" content="2026/03/01">',
        '<script type="application/ld+json">{"@type": "Article", "datePublished" : "2026-03-01T00:00:00Z"}</script>',
        '<time datetime="2026-03-01T12:00">yesterday</time>',
        '<time datetime="2020-01-01">old</time><time itemprop="datePublished" datetime="2026-03-01">new</time>',
        '<meta name="date" content="soon"><meta name="date" content="2026-03-01">',
    ],
)
def test_the_date_of_publication_is_read(head: str) -> None:
    assert metadata_of(head).date == "2026-03-01"


@pytest.mark.parametrize("date", ["2026-13-01", "March", "", "20260301", "1026-03-01", "2026-03-011"])
def test_an_invalid_date_is_ignored(date: str) -> None:
    assert metadata_of(f'<meta name="date" content="{date}">').date == ""


def test_two_unmarked_time_elements_give_no_date() -> None:
    assert metadata_of("", '<time datetime="2026-03-01">a</time><time datetime="2026-03-02">b</time>').date == ""


def test_the_license_is_the_target_of_its_link() -> None:
    cc = "https://creativecommons.org/licenses/by/4.0/"
    assert metadata_of("", f'<a rel="License noopener" href="{cc}">CC</a>').license_url == cc
    assert metadata_of(f'<link rel="license" href="{cc}">').license_url == cc


def test_only_a_link_element_declares_the_canonical_url() -> None:
    assert metadata_of('<link rel="canonical" href="../q.html#x">').canonical_url == "http://h/q.html"
    assert metadata_of("", '<a rel="canonical" href="/q.html">').canonical_url == ""
    assert metadata_of('<link rel="canonical" href="javascript:0">').canonical_url == ""


def test_title_language_and_robots_are_read() -> None:
    page = metadata_of('<title> a\n b </title><meta name="Robots" content="NoIndex, nofollow">')
    assert (page.title, page.language, page.robots) == ("a b", "de", {"noindex", "nofollow"})
