"""Servers that misbehave on purpose, each in the middle of a crawl: a reason in the table, nothing lost, and the crawl goes on."""

import gzip
import os
import random
import time
from dataclasses import replace
from functools import partial

import pytest

from provenlm.scraping.extraction.reader import TEXT_EXTRACTOR

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
    ("page", "fate"),
    [
        (endless, ("refused", "too-large")),
        (dripping, ("failed", "too-slow")),
        (shorter_than_said, ("failed", "connection")),
        (longer_than_said, RECORD),
        (bomb, ("refused", "too-large")),
        (bomb_in_a_bomb, ("refused", "too-large")),
        (endless_redirect, ("refused", "redirected")),
        (bad_chunks, ("failed", "connection")),
        (no_http, ("failed", "connection")),
        (huge_header, ("failed", "connection")),
        (nonsense_later, ("failed", "http-503")),
        ((302, {"Location": "/bad"}, b""), ("refused", "redirect-loop")),
        ((302, {"Location": "http://[::1"}, b""), ("refused", "redirect-nowhere")),
        ((302, {}, b""), ("refused", "redirect-loop")),
        ((200, {"Content-Type": ""}, b"<p>x"), ("refused", "content-type")),
        ((200, {"Content-Encoding": "gzip"}, b"not gzip"), ("failed", "decoding")),
        ((200, {"Content-Encoding": "x-secret"}, b"<p>coded"), ("failed", "decoding")),
        ((200, {"Content-Type": "text/plain"}, b"x" * 50_000_000), ("refused", "too-large")),
        ((200, {"Content-Type": "application/rss+xml"}, b"<rss><item>" * 1000), ("refused", "listing")),
    ],
)  # fmt: skip
def test_a_bad_page_has_its_reason_and_those_around_it_are_had(web, crawling, page, fate) -> None:
    web.html("/", "start", ("/before", "/bad", "/after"))
    web.html("/before")
    web.html("/after")
    web.pages["/bad"] = page
    results = crawling(max_page_bytes=200_000, tries=1, timeout_seconds=0.5 if page is dripping else 30.0)
    assert {path: (fetch.state, fetch.reason) for path, fetch in results.items()} == {
        "/": RECORD, "/before": RECORD, "/bad": fate, "/after": RECORD,
    }  # fmt: skip
    if page is longer_than_said:
        assert results["/bad"].record.text == "eight"
        assert results["/after"].record.text == "/after"  # and no byte of the lie before it


@pytest.mark.parametrize("said", ["text/html; charset=utf-8", "text/html"])
def test_a_charset_that_changes_in_the_middle_loses_no_letter(web, crawling, content_type: str) -> None:
    head = b'<meta charset="utf-8"><p>' + "vorher: größer. ".encode() * 20
    web.pages["/"] = (200, {"Content-Type": content_type}, head + "nachher: gr\xf6\xdfer. ".encode("latin-1") * 20)
    text = crawling()["/"].record.text
    assert text.count("vorher: größer.") == 20
    assert text.count("nachher: größer.") == 20


def test_forty_languages_in_both_directions_stay_as_they_are(web, crawling) -> None:
    assert len(GREETINGS.split()) >= 40
    web.pages["/"] = (
        200,
        {"Content-Type": "text/html; charset=utf-8"},
        f"<p>{GREETINGS}</p><p dir=rtl>\u202bשלום\u202c</p>".encode(),
    )
    assert crawling()["/"].record.text == f"{GREETINGS}\n\n\u202bשלום\u202c"


@pytest.mark.parametrize("charset", ["shift_jis", "gb18030", "koi8-r", "windows-1255", "utf-16", "euc-kr"])
def test_a_page_in_its_own_charset_is_the_same_text(web, crawling, charset: str) -> None:
    words = {
        "shift_jis": "こんにちは",
        "gb18030": "你好",
        "koi8-r": "Привет",
        "windows-1255": "שלום",
        "utf-16": "مرحبا",
        "euc-kr": "안녕하세요",
    }
    web.pages["/"] = (200, {"Content-Type": f"text/html; charset={charset}"}, f"<p>{words[charset]}</p>".encode(charset))
    assert crawling()["/"].record.text == words[charset]


def test_lone_surrogates_and_zeros_are_no_danger(web, crawling) -> None:
    web.pages["/"] = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<p>a\xed\xa0\x80b&#xDFFF;c\0d</p>")
    text = crawling()["/"].record.body.decode("utf-8")
    assert text[0] == "a" and "b" in text and "c" in text


def test_a_robots_txt_of_many_megabytes_is_read_up_to_the_limit_and_no_further(web, crawling) -> None:
    rules = b"User-agent: *\nDisallow: /no\n" + b"# nothing\n" * 400_000 + b"Disallow: /\n"
    web.pages["/robots.txt"] = (200, {"Content-Type": "text/plain"}, rules)
    web.html("/", "start", ("/no", "/yes"))
    web.html("/yes")
    results = crawling()
    assert (results["/no"].reason, results["/yes"].state) == ("robots", "record")


@pytest.mark.parametrize(
    "answer",
    [(200, {}, b"<!doctype html><title>404</title><p>User-agent: * Disallow: nothing that is a rule"), (200, {}, os.urandom(5000))],
)
def test_a_robots_txt_that_is_something_else_forbids_nothing(web, crawling, answer) -> None:
    web.pages["/robots.txt"] = answer
    web.html("/", "start")
    assert crawling()["/"].state == "record"


def test_a_robots_txt_that_never_ends_is_cut_off(web, crawling) -> None:
    def rules(handler) -> None:
        send_response(handler, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /no\n")
        while True:
            handler.wfile.write(b"# again\n" * 1000)

    web.pages["/robots.txt"] = rules
    web.html("/", "start", ("/no",))
    assert crawling()["/no"].reason == "robots"


def test_a_sitemap_of_sitemaps_of_itself_and_a_packed_bomb_end(web, crawling) -> None:
    maps = "".join(f"<sitemap><loc>/map.xml?{number}</loc></sitemap>" for number in range(120))
    web.robots(f"Sitemap: {web.url}/map.xml\nSitemap: {web.url}/bomb.xml.gz\n")
    page = (200, {}, f"<sitemapindex><sitemap><loc>/map.xml</loc></sitemap>{maps}</sitemapindex>".encode())
    web.pages["/map.xml"] = page
    web.pages.update({f"/map.xml?{number}": page for number in range(120)})
    web.pages["/bomb.xml.gz"] = (200, {}, gzip.compress(b"<urlset>" + b" " * (60 << 20)))
    web.html("/", "start")
    assert crawling()["/"].state == "record"
    assert sum("map.xml" in path for path in web.asked) <= 102


def test_a_page_that_breaks_its_reader_is_a_failure_of_its_own(web, crawling) -> None:
    def breaks(body: bytes, content_type: str, url: str):
        if b"<p>bad" in body:
            raise RecursionError("too deep")
        return TEXT_EXTRACTOR.extract_content(body, content_type, url)

    web.html("/", "start", ("/bad", "/after"))
    web.html("/bad", "bad")
    web.html("/after")
    results = crawling(reader=replace(TEXT_EXTRACTOR, read=breaks))
    assert (results["/bad"].state, results["/bad"].reason, results["/after"].state) == ("failed", "unreadable", "record")


@pytest.mark.parametrize(
    "markup", [b"<![n00b", b"<!DOCTYPE html [<!ENTITY a '&a;'>]>&a;<p>x", b"<" * 100_000, b"<a href='" * 20_000, b"\xff\xfe<"]
)
def test_markup_that_is_hardly_any_breaks_nothing(web, crawling, markup: bytes) -> None:
    web.html("/", "start", ("/bad", "/after"))
    web.pages["/bad"] = (200, {}, markup)
    web.html("/after")
    results = crawling()
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
def test_answers_thrown_together_at_random_end_no_crawl(web, crawling, seed: int) -> None:
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
    results = crawling(tries=1, max_wait_seconds=0.0)
    assert set(names) <= set(results)
    assert [path for path in (*good, "/last") if results[path].state != "record"] == []
    assert all(fetch.state == "record" or fetch.reason for fetch in results.values())
