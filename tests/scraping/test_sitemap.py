import gzip

from provenlm.scraping.crawl.sitemap import parse_sitemap

PLAIN = b"""<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
<url><loc> http://h/a </loc><image:image><image:loc>http://h/a.png</image:loc></image:image></url><url><loc>http://h/b?x=1&amp;y=2</loc></url></urlset>"""
INDEX = b"<sitemapindex><sitemap><loc>http://h/1.xml</loc></sitemap></sitemapindex>"


def test_a_plain_sitemap_lists_pages_and_no_images() -> None:
    assert list(parse_sitemap(PLAIN)) == [("url", "http://h/a"), ("url", "http://h/b?x=1&y=2")]


def test_an_index_lists_sitemaps() -> None:
    assert list(parse_sitemap(INDEX)) == [("sitemap", "http://h/1.xml")]


def test_a_gzip_sitemap_is_decompressed() -> None:
    assert list(parse_sitemap(gzip.compress(INDEX))) == [("sitemap", "http://h/1.xml")]


def test_entries_before_the_damage_are_read() -> None:
    assert list(parse_sitemap(b"<urlset><url><loc>http://h/a</loc></url><url><loc>http")) == [("url", "http://h/a")]


def test_html_and_a_truncated_gzip_file_list_nothing() -> None:
    assert list(parse_sitemap(b"<!DOCTYPE html><p>no")) == []
    assert list(parse_sitemap(b"\x1f\x8bbroken")) == []
    assert list(parse_sitemap(b"")) == []


def test_an_entity_is_never_resolved() -> None:
    bomb = b'<!DOCTYPE u [<!ENTITY a SYSTEM "file:///etc/hostname">]><urlset><url><loc>http://h/&a;</loc></url></urlset>'
    assert all(url in ("http://h/", "") for _, url in parse_sitemap(bomb))
