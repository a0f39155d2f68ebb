import gzip

import pytest

from provenlm.scraping.crawl.database import sitemap_outcomes
from provenlm.scraping.crawl.sitemap import MAX_SITEMAPS, parse_sitemap

PLAIN = b"""<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
<url><loc> http://h/a </loc><image:image><image:loc>http://h/a.png</image:loc></image:image></url><url><loc>http://h/b?x=1&amp;y=2</loc></url></urlset>"""
INDEX = b"<sitemapindex><sitemap><loc>http://h/1.xml</loc></sitemap></sitemapindex>"
AB = [("url", "http://h/a"), ("url", "http://h/b")]


def test_a_plain_sitemap_lists_pages_and_no_images() -> None:
    assert parse_sitemap(PLAIN) == [("url", "http://h/a"), ("url", "http://h/b?x=1&y=2")]


def test_an_index_lists_sitemaps() -> None:
    assert parse_sitemap(INDEX) == [("sitemap", "http://h/1.xml")]


@pytest.mark.parametrize(
    "body",
    [
        b"<urlset><url><loc>http://h/a</loc></url><url><loc>http://h/b</loc></url><url><loc>http://h/cu",
        b"<urlset><url><loc>http://h/a</loc></url><url><loc>http://h/b</lo",
        b"<urlset><url><loc>http://h/a</lock></url><url><loc>http://h/b</loc></url></urlset>",
        b"<urlset><url><loc>http://h/a\x08</loc></url><image:image/><url><loc>http://h/b</loc></url></urlset>",
        b"<br>Warning: a notice<br>\n<?xml version='1.0'?><urlset><url><loc>http://h/a</loc></url><url><loc>http://h/b</loc></url></urlset>",
        b"<urlset><url><loc><![CDATA[http://h/a]]></loc></url><url><title>&nbsp;&copy;</title><loc>http://h/b</loc></url></urlset>",
        "<?xml version='1.0' encoding='utf-16'?><urlset><url><loc>http://h/a</loc></url><url><loc>http://h/b</loc></url></urlset>".encode(
            "utf-16"
        ),
        b"<s:urlset xmlns:s='x'><s:url><s:loc>http://h/a</s:loc></s:url><s:url><s:loc>http://h/b</s:loc></s:url></s:urlset>",
        b"\xef\xbb\xbfhttp://h/a\r\nnot an address\n\nhttp://h/b\n",
        b"<rss version='2.0'><channel><item><link>http://h/a</link></item><item><guid>http://h/b</guid></item></channel></rss>",
        b"<feed xmlns='http://www.w3.org/2005/Atom'><entry><link href='http://h/a'/></entry><entry><link rel='Alternate' href='http://h/b'/></entry></feed>",
    ],
)
def test_every_format_and_flaw_leaves_the_other_entries(body: bytes) -> None:
    assert parse_sitemap(body) == AB
    assert parse_sitemap(gzip.compress(body)) == AB


def test_a_bare_ampersand_belongs_to_the_address() -> None:
    body = b"<urlset><url><loc>http://h/a?x=1&y=2&copy=3&#38;z</loc></url><url><loc><![CDATA[http://h/b?x&y]]></loc></url></urlset>"
    assert parse_sitemap(body) == [("url", "http://h/a?x=1&y=2&copy=3&z"), ("url", "http://h/b?x&y")]


def test_gzip_members_are_joined_and_a_cut_member_is_read_to_its_end() -> None:
    assert parse_sitemap(gzip.compress(PLAIN[:200]) + gzip.compress(PLAIN[200:])) == parse_sitemap(PLAIN)
    many = (
        b"<urlset>" + b"".join(b"<url><loc>http://h/%d</loc></url>" % (n * 7919**2 % 1000003) for n in range(2000)) + b"</urlset>"
    )
    assert len(parse_sitemap(gzip.compress(many)[:4000]) or ()) > 100


def test_other_documents_are_no_sitemap() -> None:
    assert parse_sitemap(b"<!DOCTYPE html><p>no http://h/a") is None
    assert parse_sitemap(b"\x1f\x8bbroken") is None
    assert parse_sitemap(b"") is None
    assert parse_sitemap(b"<urlset/>") == []


def test_an_entity_is_never_resolved() -> None:
    bomb = b'<!DOCTYPE u [<!ENTITY a SYSTEM "file:///etc/hostname"><!ENTITY b "&a;&a;">]><urlset><url><loc>http://h/&b;</loc></url></urlset>'
    assert parse_sitemap(bomb) == [("url", "http://h/")]


def xml(*paths: str, kind: str = "url") -> bytes:
    return f"<{kind}set>{''.join(f'<{kind}><loc>{path}</loc></{kind}>' for path in paths)}</{kind}set>".encode()


def test_redirects_on_the_host_are_followed_and_failures_are_named(web, crawl_site, tmp_path) -> None:
    for name in "abc":
        web.html(f"/{name}")
    web.html("/")
    web.robots(
        f"Sitemap: {web.url}/gone.xml\nSitemap: {web.url}/page\nSitemap: http://elsewhere.invalid/s.xml\nSitemap: /list.txt\n"
    )
    web.html("/page")
    web.pages["/list.txt"] = (200, {"Content-Type": "text/plain"}, f"{web.url}/c\n".encode())
    web.pages["/sitemap.xml"] = (301, {"Location": "/index.xml"}, b"")
    web.pages["/index.xml"] = (200, {}, b"<sitemapindex><sitemap><loc>/1.xml</loc></sitemap></sitemapindex>")
    web.pages["/1.xml"] = (302, {"Location": "/one.xml"}, b"")
    web.pages["/one.xml"] = (200, {}, xml("/a", "/b"))
    assert {path for path, fetch in crawl_site().items() if fetch.state == "record"} == {"/", "/a", "/b", "/c"}
    assert [(url.removeprefix(web.url), reason, pages) for url, reason, pages in sitemap_outcomes(tmp_path / "state")] == [
        ("/gone.xml", "http-404", 0),
        ("/page", "not-a-sitemap", 0),
        ("http://elsewhere.invalid/s.xml", "off-site", 0),
        ("/list.txt", "", 1),
        ("/sitemap.xml", "", 0),
        ("/1.xml", "", 2),
    ]


def test_a_sitemap_that_redirects_for_ever_or_away_ends(web, crawl_site, tmp_path) -> None:
    web.html("/")
    web.robots("Sitemap: /loop.xml\nSitemap: /away.xml\n")
    web.pages["/loop.xml"] = (302, {"Location": "/loop.xml"}, b"")
    web.pages["/away.xml"] = (302, {"Location": "http://elsewhere.invalid/"}, b"")
    assert set(crawl_site()) == {"/"}
    assert [reason for _, reason, _ in sitemap_outcomes(tmp_path / "state")] == ["redirect-limit", "off-site"]


def test_an_index_of_too_many_sitemaps_says_so(web, crawl_site, tmp_path) -> None:
    web.html("/")
    locations = "".join(f"<sitemap><loc>/{number}.xml</loc></sitemap>" for number in range(MAX_SITEMAPS + 5))
    web.pages["/sitemap.xml"] = (200, {}, f"<sitemapindex>{locations}</sitemapindex>".encode())
    crawl_site()
    reasons = [reason for _, reason, _ in sitemap_outcomes(tmp_path / "state")]
    assert (reasons.count("limit"), reasons.count("http-404")) == (6, MAX_SITEMAPS - 1)
