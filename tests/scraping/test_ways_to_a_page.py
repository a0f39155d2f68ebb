"""Test the ways to a page other than a link, the robots directives on the way, and pages without a media type."""

import time
from datetime import UTC, datetime

import pytest
from resiliparse.parse.html import HTMLTree

from provenlm.scraping.crawl.robots_directives import parse_directives
from provenlm.scraping.extraction.links import page_links, refresh_url
from provenlm.scraping.extraction.media_types import sniff_media_type

RECORD = ("record", "")
BOTH = {"noindex", "nofollow"}


def outcomes(results) -> dict[str, tuple[str, str]]:
    return {path: (fetch.state, fetch.reason) for path, fetch in results.items()}


def html(body: str, status: int = 200, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, f"<html><body>{body}</body></html>".encode()


@pytest.mark.parametrize(
    ("line", "directives"),
    [
        ("none", BOTH),
        ("NoIndex", {"noindex"}),
        ("noarchive, nofollow, max-snippet: 20", {"nofollow"}),
        ("noindex nofollow", BOTH),
        ("otherbot: noindex", set()),
        ("otherbot: noindex, nofollow, provenlm: nofollow", {"nofollow"}),
        ("ProvenLM: none", BOTH),
        ("*: noindex", {"noindex"}),
        ("otherbot: unavailable_after: 1 Jan 2010 00:00:00 GMT", set()),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST", {"noindex"}),
        ("unavailable_after: Friday, 25-Jun-10 15:00:00 EST, nofollow", BOTH),
        ("unavailable_after: 2010-06-25", {"noindex"}),
        ("unavailable_after: 2010-06-25T15:00:00+00:00", {"noindex"}),
        ("provenlm: unavailable_after: 2010-06-25, max-image-preview:large", {"noindex"}),
        ("unavailable_after: 1 Jan 2999 00:00:00 GMT", set()),
        ("unavailable_after: some day, all", set()),
        ("noindexing, x-nofollow", set()),
        ("", set()),
    ],
)
def test_directives_are_read_with_agent_and_date(line: str, directives: set[str]) -> None:
    assert parse_directives([line], datetime(2020, 1, 1, tzinfo=UTC)) == directives


def test_header_and_meta_element_mean_the_same(web, crawl_site) -> None:
    cases = ("none", "noindex", "nofollow", "otherbot: noindex", "unavailable_after: 25 Jun 2010 15:00:00 PST")
    web.pages["/"] = html("".join(f"<a href=/{kind}{i}>x</a>" for kind in "hm" for i in range(len(cases))))
    for i, words in enumerate(cases):
        web.pages[f"/h{i}"] = html(f"page<a href=/h{i}/x>x</a>", X_Robots_Tag=words)
        web.pages[f"/m{i}"] = html(f"<meta name=robots content='{words}'>page<a href=/m{i}/x>x</a>")
        web.html(f"/h{i}/x")
        web.html(f"/m{i}/x")
    results = outcomes(crawl_site())
    for kind in "hm":
        assert [results[f"/{kind}{i}"][1] for i in range(len(cases))] == ["noindex", "noindex", "", "", "noindex"]
        assert [f"/{kind}{i}/x" in results for i in range(len(cases))] == [False, True, False, True, True]


def test_each_header_line_has_its_own_agent(web, crawl_site) -> None:
    def two_lines(handler) -> None:
        handler.send_response(200)
        for name, value in (("X-Robots-Tag", "otherbot: noindex"), ("X-Robots-Tag", "nofollow"), ("Content-Length", "22")):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"<p>x<a href=/hidden>x</a>"[:22])

    web.pages["/"] = two_lines
    assert outcomes(crawl_site()) == {"/": RECORD}


def test_a_feed_with_noindex_still_lists_its_entries(web, crawl_site) -> None:
    feed = b"<rss><channel><item><link>/a</link></item></channel></rss>"
    web.pages["/"] = (200, {"Content-Type": "application/rss+xml", "X-Robots-Tag": "noindex, follow"}, feed)
    web.html("/a")
    assert outcomes(crawl_site()) == {"/": ("skipped", "listing"), "/a": RECORD}


@pytest.mark.parametrize(
    ("markup", "target"),
    [
        ("<meta http-equiv=refresh content='0; url=docs/a.html'>", "http://h/x/docs/a.html"),
        ("<META HTTP-EQUIV=Refresh CONTENT='0;URL=\"/a\"'>", "http://h/a"),
        ("<meta http-equiv=refresh content='1.5, /a'>", "http://h/a"),
        ("<meta http-equiv=refresh content='0 /a'>", "http://h/a"),
        ("<base href=/b/><meta http-equiv=refresh content='0; url=a'>", "http://h/b/a"),
        ("<meta http-equiv=refresh content='300; url=/a'>", ""),
        ("<meta http-equiv=refresh content='5'>", ""),
        ("<meta http-equiv=refresh content='0; url=/x/p#top'>", ""),
        ("<noscript><meta http-equiv=refresh content='0; url=/nojs'></noscript>", ""),
        ("<meta http-equiv=refresh content='0; url=javascript:alert(1)'>", ""),
        ("<meta name=refresh content='0; url=/a'>", ""),
    ],
)
def test_a_refresh_forwards_to_another_page(markup: str, target: str) -> None:
    assert refresh_url(HTMLTree.parse(f"<html><head>{markup}</head><body>x</body></html>"), "http://h/x/p") == target


def test_links_of_every_kind_are_found_in_page_order() -> None:
    markup = """<head><link rel="NEXT" href="/next"><link rel=stylesheet href=/style><link rel=prev href=/prev>
    <meta http-equiv=refresh content="60; url=/slow"></head><body><a href=/a>a</a><a rel="ugc NoFollow" href=/no>n</a>
    <map><area href=/area><area rel=nofollow href=/no></map><iframe src=/frame></iframe><a href=#here>h</a><iframe src=about:blank></iframe>"""
    assert list(page_links(HTMLTree.parse(markup), "http://h/")) == [
        f"http://h/{name}" for name in ("next", "slow", "a", "area", "frame", "")
    ]
    assert list(page_links(HTMLTree.parse("<frameset><frame src=/toc><frame src=main></frameset>"), "http://h/d/")) == [
        "http://h/toc",
        "http://h/d/main",
    ]


def test_a_start_page_that_only_forwards_is_followed(web, crawl_site) -> None:
    web.pages["/"] = (200, {}, b"<html><head><meta http-equiv=refresh content='0; url=docs/index.html'></head></html>")
    web.html("/docs/index.html", links=("/docs/a.html",))
    web.html("/docs/a.html")
    expected = {"/": ("skipped", "redirected"), "/docs/index.html": RECORD, "/docs/a.html": RECORD}
    assert outcomes(crawl_site(max_depth=1)) == expected


def test_a_refresh_out_of_the_scope_is_not_followed(web, other_web, crawl_site) -> None:
    web.html("/", "start", ("/away",))
    web.pages["/away"] = (200, {}, f"<meta http-equiv=refresh content='0; url={other_web.url}/'>".encode())
    results = outcomes(crawl_site())
    assert results["/away"] == ("skipped", "redirect-off-site")
    assert other_web.requested_paths == []


def test_a_page_that_wants_its_cookie_back_gets_it(web, crawl_site) -> None:
    def walled(handler) -> None:
        has_cookies = handler.headers.get("Cookie") == "seen=1; id=a,b"
        handler.send_response(200 if has_cookies else 302)
        for name, value in (("Location", "/walled"), ("Set-Cookie", "seen=1; Path=/"), ("Set-Cookie", "id=a,b; HttpOnly")):
            handler.send_header(name, value)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", "8")
        handler.end_headers()
        handler.wfile.write(b"<p>text\n")

    web.html("/", "start", ("/walled", "/other"))
    web.html("/other")
    web.pages["/walled"] = walled
    results = crawl_site()
    assert outcomes(results) == {"/": RECORD, "/walled": RECORD, "/other": RECORD}
    assert results["/walled"].attempts == web.requested_paths.count("/walled") == 2
    assert "Cookie" not in web.headers["/other"][0]


def test_a_start_that_redirects_to_its_slash_is_the_folder(web, crawl_site) -> None:
    web.pages["/docs"] = (301, {"Location": "/docs/"}, b"")
    web.html("/docs/", links=("a", "/other"))
    web.html("/docs/a", links=("/docs/b",))
    web.html("/docs/b")
    for path in ("/other", "/listed"):
        web.html(path)
    web.pages["/sitemap.xml"] = (200, {}, b"<urlset><url><loc>/listed</loc></url><url><loc>/docs/b</loc></url></urlset>")
    assert outcomes(crawl_site("/docs", scope="folder")) == {
        "/docs": ("skipped", "redirected"), "/listed": ("skipped", "out-of-scope"), "/docs/b": RECORD, "/docs/": RECORD, "/docs/a": RECORD,
        "/other": ("skipped", "out-of-scope"),
    }  # fmt: skip
    assert not {"/other", "/listed"} & set(web.requested_paths)


@pytest.mark.parametrize(
    ("content", "path", "media_type"),
    [
        (b"\n<!-- made by a tool -->\n<!DOCTYPE html><p>x", "/x", "text/html"),
        (b"\xef\xbb\xbf<HTML>", "/x.txt", "text/html"),
        (b"<?xml version='1.0'?><rss>", "/x", "application/xml"),
        (b"%PDF-1.4", "/x", "application/pdf"),
        (b"# Title\n\ntext", "/x.md", "text/markdown"),
        (b"Title\n=====\n", "/x.rst?download=1", "text/x-rst"),
        (b"plain <b>text", "/x", "text/plain"),
        (b"\xff\xfea\0b\0", "/x", "text/plain"),
        (b"PK\3\4", "/x.html", "application/octet-stream"),
        (b"", "/x", "text/plain"),
    ],
)
def test_the_content_tells_its_media_type(content: bytes, path: str, media_type: str) -> None:
    assert sniff_media_type(content, f"http://h{path}") == media_type


def test_pages_without_a_type_are_sniffed_and_text_types_are_read(web, crawl_site) -> None:
    def untyped(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "15")
        handler.end_headers()
        handler.wfile.write(b"<html><p>no typ")

    types = {
        "octet.html": "application/octet-stream",
        "a.rst": "text/x-rst",
        "b.md": "text/x-markdown",
        "c": "text/markdown; charset=utf-8",
    }
    web.html("/", "start", ("/untyped", "/zip", "/style", *(f"/{name}" for name in types)))
    web.pages["/untyped"] = untyped
    web.pages["/zip"] = (200, {"Content-Type": "application/octet-stream"}, b"PK\3\4" + b"\0" * 9)
    web.pages["/style"] = (200, {"Content-Type": "text/css"}, b"p {}")
    for name, media_type in types.items():
        web.pages[f"/{name}"] = (200, {"Content-Type": media_type}, b"<p>text" if "html" in name else b"# text")
    results = crawl_site()
    refused = ("skipped", "content-type")
    assert {path: outcome for path, outcome in outcomes(results).items() if outcome != RECORD} == {
        "/zip": refused,
        "/style": refused,
    }
    assert results["/untyped"].record.text == "no typ"
    assert results["/octet.html"].record.text == "text"


def test_the_links_of_a_large_page_take_linear_time() -> None:
    markup = "".join(f"<p>text <a href=/{number}>a</a>" for number in range(3000))
    started = time.process_time()
    assert len(list(page_links(HTMLTree.parse(markup), "http://h/"))) == 3000
    assert time.process_time() - started < 3.0  # quadratic: minutes


def test_a_pdf_of_a_site_is_read_like_that_of_a_folder(web, crawl_site) -> None:
    stream = b"BT /F 12 Tf 20 100 Td (harbour list) Tj ET"
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    )
    numbered = b"".join(b"%d 0 obj%s endobj\n" % (number, content) for number, content in enumerate(objects, 1))
    body = b"%PDF-1.4\n" + numbered + b"trailer<</Root 1 0 R/Size 6>>\n%%EOF\n"
    web.html("/", "start", ("/a.pdf", "/untyped", "/cut.pdf"))
    web.pages["/a.pdf"] = (200, {"Content-Type": "application/pdf"}, body)
    web.pages["/untyped"] = (200, {"Content-Type": "application/octet-stream"}, body)
    web.pages["/cut.pdf"] = (200, {"Content-Type": "application/pdf"}, b"%PDF-1.4\n")
    results = crawl_site()
    assert [results[path].record.text.strip() for path in ("/a.pdf", "/untyped")] == ["harbour list"] * 2
    assert results["/cut.pdf"].reason == "pdf-damaged"
