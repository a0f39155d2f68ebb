"""Test servers that misbehave during a crawl: each gets a reason, nothing is lost, and the crawl continues."""

import gzip
import os
import random
import time
from dataclasses import replace
from functools import partial

import pytest

from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR

RECORD = ("record", "")
GREETINGS = (
    "Hello Hallo Bonjour Hola Ciao Olá Hej Hei Moi Tere Sveiki Labas Cześć Ahoj Szia Bună Zdravo Здраво Привет Вітаю Здравей Γεια "
    "Merhaba Salam Сәлем Сайн გამარჯობა Բարեւ שלום سلام مرحبا नमस्ते নমস্কার ਸਤਿ வணக்கம் నమస్కారం ನಮಸ್ಕಾರ ആയുബോവൻ สวัสดี ສະບາຍດີ "
    "မင်္ဂလာပါ សួស្តី Xin你好 こんにちは 안녕하세요 ሰላም"
)


def send_response(handler, headers: dict[str, str], *pieces: bytes) -> None:
    handler.send_response(200)
    for name, value in {"Content-Type": "text/html", **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(piece)


def endless(handler) -> None:
    send_response(handler, {})
    while True:
        handler.wfile.write(b"<p>again " * 1000)


def dripping(handler) -> None:
    send_response(handler, {})
    while True:
        handler.wfile.write(b".")
        time.sleep(0.05)


def shorter_than_said(handler) -> None:
    send_response(handler, {"Content-Length": "5000"}, b"half")
    handler.close_connection = True


def longer_than_said(handler) -> None:
    send_response(handler, {"Content-Length": "8"}, b"<p>eight" + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlie" * 9)


def bomb(handler) -> None:
    packed = gzip.compress(bytes(30 << 20))
    send_response(handler, {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}, packed)


def bomb_in_a_bomb(handler) -> None:
    packed = gzip.compress(gzip.compress(bytes(30 << 20)))
    send_response(handler, {"Content-Encoding": "gzip, gzip", "Content-Length": str(len(packed))}, packed)


def endless_redirect(handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/after")
    handler.end_headers()
    while True:
        handler.wfile.write(b"moved " * 1000)


def bad_chunks(handler) -> None:
    send_response(handler, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\nthis is no length\r\n")
    handler.close_connection = True


def no_http(handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    handler.close_connection = True


def huge_header(handler) -> None:
    send_response(handler, {"X-Long": "x" * 200_000}, b"<p>x")
    handler.close_connection = True


def nonsense_later(handler) -> None:
    handler.send_response(503)
    handler.send_header("Retry-After", "\xb2 o'clock")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize(
    ("page", "outcome"),
    [
        (endless, ("skipped", "too-large")),
        (dripping, ("failed", "too-slow")),
        (shorter_than_said, ("failed", "connection")),
        (longer_than_said, RECORD),
        (bomb, ("skipped", "too-large")),
        (bomb_in_a_bomb, ("skipped", "too-large")),
        (endless_redirect, ("skipped", "redirected")),
        (bad_chunks, ("failed", "connection")),
        (no_http, ("failed", "connection")),
        (huge_header, ("failed", "connection")),
        (nonsense_later, ("failed", "http-503")),
        ((302, {"Location": "/bad"}, b""), ("skipped", "redirect-loop")),
        ((302, {"Location": "http://[::1"}, b""), ("skipped", "redirect-nowhere")),
        ((302, {}, b""), ("skipped", "redirect-loop")),
        ((200, {"Content-Type": ""}, b"\0\1x"), ("skipped", "content-type")),
        ((200, {"Content-Type": "application/octet-stream"}, b"\x89PNG" + b"\0" * 50_000_000), ("skipped", "content-type")),
        ((200, {"Content-Encoding": "gzip"}, b"not gzip"), ("failed", "decoding")),
        ((200, {"Content-Encoding": "x-secret"}, b"<p>coded"), ("failed", "decoding")),
        ((200, {"Content-Type": "text/plain"}, b"x" * 50_000_000), ("skipped", "too-large")),
        ((200, {"Content-Type": "application/rss+xml"}, b"<rss><item>" * 1000), ("skipped", "listing")),
    ],
)  # fmt: skip
def test_a_bad_page_gets_a_reason_and_its_neighbours_are_fetched(web, crawl_site, page, outcome) -> None:
    web.html("/", "start", ("/before", "/bad", "/after"))
    web.html("/before")
    web.html("/after")
    web.pages["/bad"] = page
    results = crawl_site(max_response_bytes=200_000, max_attempts=1, timeout_seconds=0.5 if page is dripping else 30.0)
    assert {path: (fetch.state, fetch.reason) for path, fetch in results.items()} == {
        "/": RECORD, "/before": RECORD, "/bad": outcome, "/after": RECORD,
    }  # fmt: skip
    if page is longer_than_said:
        assert results["/bad"].record.text == "eight"
        assert results["/after"].record.text == "/after"  # without a byte of the extra response


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "text/html"])
def test_a_charset_that_changes_within_a_page_loses_no_letter(web, crawl_site, content_type: str) -> None:
    head = b'<meta charset="utf-8"><p>' + "vorher: größer. ".encode() * 20
    web.pages["/"] = (200, {"Content-Type": content_type}, head + "nachher: gr\xf6\xdfer. ".encode("latin-1") * 20)
    text = crawl_site()["/"].record.text
    assert text.count("vorher: größer.") == 20
    assert text.count("nachher: größer.") == 20


def test_forty_languages_in_both_directions_are_unchanged(web, crawl_site) -> None:
    assert len(GREETINGS.split()) >= 40
    web.pages["/"] = (
        200,
        {"Content-Type": "text/html; charset=utf-8"},
        f"<p>{GREETINGS}</p><p dir=rtl>\u202bשלום\u202c</p>".encode(),
    )
    assert crawl_site()["/"].record.text == f"{GREETINGS}\n\n\u202bשלום\u202c"


@pytest.mark.parametrize("charset", ["shift_jis", "gb18030", "koi8-r", "windows-1255", "utf-16", "euc-kr"])
def test_a_page_in_a_legacy_charset_gives_the_same_text(web, crawl_site, charset: str) -> None:
    words = {
        "shift_jis": "こんにちは",
        "gb18030": "你好",
        "koi8-r": "Привет",
        "windows-1255": "שלום",
        "utf-16": "مرحبا",
        "euc-kr": "안녕하세요",
    }
    web.pages["/"] = (200, {"Content-Type": f"text/html; charset={charset}"}, f"<p>{words[charset]}</p>".encode(charset))
    assert crawl_site()["/"].record.text == words[charset]


def test_lone_surrogates_and_zero_bytes_are_harmless(web, crawl_site) -> None:
    web.pages["/"] = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<p>a\xed\xa0\x80b&#xDFFF;c\0d</p>")
    text = crawl_site()["/"].record.content.decode("utf-8")
    assert text[0] == "a" and "b" in text and "c" in text


def test_a_huge_robots_txt_is_read_up_to_the_limit(web, crawl_site) -> None:
    rules = b"User-agent: *\nDisallow: /no\n" + b"# nothing\n" * 400_000 + b"Disallow: /\n"
    web.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"}, rules)
    web.html("/", "start", ("/no", "/yes"))
    web.html("/yes")
    results = crawl_site()
    assert (results["/no"].reason, results["/yes"].state) == ("robots", "record")


@pytest.mark.parametrize(
    "answer",
    [(200, {}, b"<!doctype html><title>404</title><p>User-agent: * Disallow: nothing that is a rule"), (200, {}, os.urandom(5000))],
)
def test_a_robots_txt_that_is_not_one_forbids_nothing(web, crawl_site, answer) -> None:
    web.pages["/robots.txt"] = answer
    web.html("/", "start")
    assert crawl_site()["/"].state == "record"


def test_an_endless_robots_txt_is_truncated(web, crawl_site) -> None:
    def rules(handler) -> None:
        send_response(handler, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /no\n")
        while True:
            handler.wfile.write(b"# again\n" * 1000)

    web.pages["/robots.txt"] = rules
    web.html("/", "start", ("/no",))
    assert crawl_site()["/no"].reason == "robots"


def test_a_recursive_sitemap_and_a_gzip_bomb_terminate(web, crawl_site) -> None:
    maps = "".join(f"<sitemap><loc>/map.xml?{number}</loc></sitemap>" for number in range(120))
    web.robots(f"Sitemap: {web.url}/map.xml\nSitemap: {web.url}/bomb.xml.gz\n")
    page = (200, {}, f"<sitemapindex><sitemap><loc>/map.xml</loc></sitemap>{maps}</sitemapindex>".encode())
    web.pages["/map.xml"] = page
    web.pages.update({f"/map.xml?{number}": page for number in range(120)})
    web.pages["/bomb.xml.gz"] = (200, {}, gzip.compress(b"<urlset>" + b" " * (60 << 20)))
    web.html("/", "start")
    assert crawl_site()["/"].state == "record"
    assert sum("map.xml" in path for path in web.requested_paths) <= 102


def test_a_page_that_breaks_the_extractor_fails_alone(web, crawl_site) -> None:
    def breaks(body: bytes, content_type: str, url: str):
        if b"<p>bad" in body:
            raise RecursionError("too deep")
        return TEXT_EXTRACTOR.extract_content(body, content_type, url)

    web.html("/", "start", ("/bad", "/after"))
    web.html("/bad", "bad")
    web.html("/after")
    results = crawl_site(extractor=replace(TEXT_EXTRACTOR, extract_content=breaks))
    assert (results["/bad"].state, results["/bad"].reason, results["/after"].state) == ("failed", "unreadable", "record")


def test_a_page_that_freezes_a_parser_has_the_reason_time_limit(web, crawl_site) -> None:
    """One tag of 60,000 attributes takes an HTML parser quadratic time, in C code that no exception reaches."""
    web.html("/", "start", ("/bad", "/after"))
    web.pages["/bad"] = (200, {}, b"<p " + b" ".join(b"a%d=1" % n for n in range(60_000)) + b">x")
    web.html("/after")
    results = crawl_site(extractor=replace(TEXT_EXTRACTOR, max_seconds=0.1))
    assert (results["/bad"].state, results["/bad"].reason, results["/after"].state) == ("failed", "time-limit", "record")
    assert crawl_site(from_cache=True)["/bad"].reason == "time-limit"


@pytest.mark.parametrize(
    "markup", [b"<![n00b", b"<!DOCTYPE html [<!ENTITY a '&a;'>]>&a;<p>x", b"<" * 100_000, b"<a href='" * 20_000, b"\xff\xfe<"]
)
def test_broken_markup_does_not_stop_the_crawl(web, crawl_site, markup: bytes) -> None:
    web.html("/", "start", ("/bad", "/after"))
    web.pages["/bad"] = (200, {}, markup)
    web.html("/after")
    results = crawl_site()
    assert results["/after"].state == "record"
    assert results["/bad"].reason in ("", "empty", "unreadable")


STATUS = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.0 999 What",
    b"HTTP/1.1 -1 x",
    b"HTTP/9 200 OK",
    b"\xff\xfe 200",
    b"HTTP/1.1 302 Go",
    b"HTTP/1.1 304 x",
]
HEADERS = [
    b"Content-Type: text/html", b"Content-Type: text/html; charset=\xff", b"Content-Type: text/plain; charset=utf-7", b"Content-Length: -5",
    b"Content-Length: 99999999999999999999", b"Content-Length: 3", b"Content-Length: x", b"Transfer-Encoding: chunked", b"Location: //[",
    b"Location: http://\xff\xff/", b"Location: http://h:99999/", b"Location: \x00", b"Content-Encoding: gzip", b"Content-Encoding: br, gzip",
    b"Retry-After: -1", b"Retry-After: Thu, 99 Foo 2026", b"ETag: \x80\x81", b"Last-Modified: never", b": empty", b"No colon at all",
    b" folded", b"Set-Cookie: a=\xff; domain=..", b"X-Robots-Tag: \xff", b"Link: <http://", b"Caf\xe9: x",
]  # fmt: skip
PIECES = [
    b"<html",
    b"<p>text",
    b"\0",
    b"\xff\xfe",
    b"<!--",
    b"]]>",
    b"<![CDATA[",
    b"&#xD800;",
    b"&#99999999999;",
    b"<a href='http://[::'>",
    b"<base href='//'>",
    b"<pre>\n",
    b"<meta charset=utf-16>",
    b"<svg><title>",
    b"</html>",
    b"<table><td>",
    b"\x1f\x8b",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
]


@pytest.mark.parametrize("seed", range(4))
def test_random_responses_do_not_stop_the_crawl(web, crawl_site, seed: int) -> None:
    chance = random.Random(seed)

    def nonsense(handler, answer: bytes) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    names = [f"/{number}" for number in range(40)]
    good = [f"/good{name}" for name in names]
    web.html("/", "start", (*(path for pair in zip(names, good, strict=True) for path in pair), "/last"))
    for path in (*good, "/last"):
        web.html(path)
    for name in names:
        lines = [
            chance.choice(STATUS),
            *chance.sample(HEADERS, chance.randrange(6)),
            b"",
            b"".join(chance.choices(PIECES, k=chance.randrange(9))),
        ]
        web.pages[name] = partial(nonsense, answer=b"\r\n".join(lines))
    # A client may send a request into a connection that the server is about to close, and may repeat it (RFC 9112, 9.3.1).
    results = crawl_site(max_attempts=2, max_retry_after_seconds=0.0)
    assert set(names) <= set(results)
    assert [path for path in (*good, "/last") if results[path].state != "record"] == []
    assert all(fetch.state == "record" or fetch.reason for fetch in results.values())
