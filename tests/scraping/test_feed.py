from provenlm.core.progress import ProgressReporter
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.database import mark_delivered
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR
from provenlm.scraping.sources.feed import feed_links

RSS = """<?xml version="1.0"?><rss version="2.0"><channel><link>http://h/</link>
<item><title>a</title><link>http://h/a</link><guid isPermaLink="false">7</guid></item>
<item><guid>http://h/b#x</guid></item><item><title>none</title></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><link href="http://h/"/>
<entry><link rel="edit" href="/edit"/><link href="/a"/></entry><entry><link rel="alternate" href="b?x"/></entry></feed>"""


def test_rss_and_atom_list_their_entries() -> None:
    assert list(feed_links(RSS.encode(), "http://h/f")) == ["http://h/a", "http://h/b"]
    assert list(feed_links(ATOM.encode(), "http://h/f")) == ["http://h/a", "http://h/b?x"]


def test_other_markup_has_no_feed_links() -> None:
    assert list(feed_links(b"<html>not <b>closed", "http://h/")) == []
    assert list(feed_links(b"", "http://h/")) == []
    bomb = b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><rss><item><link>&b;</link></item></rss>'
    assert list(feed_links(bomb, "http://h/")) == []


def test_a_truncated_feed_gives_its_first_entries() -> None:
    body = RSS.encode()
    assert list(feed_links(body[: body.index(b"/b") + 2], "http://h/f")) == ["http://h/a"]


def test_a_feed_is_read_behind_a_bare_ampersand() -> None:
    body = b"<rss><item><title>A & B&nbsp;</title><link>/a?x=1&y=2</link></item><item><link>/b</link></item></rss>"
    assert list(feed_links(body, "http://h/f")) == ["http://h/a?x=1&y=2", "http://h/b"]


def rss(*paths: str) -> tuple[int, dict[str, str], bytes]:
    items = "".join(f"<item><link>{path}</link></item>" for path in paths)
    return 200, {"Content-Type": "application/rss+xml"}, f"<rss><channel>{items}</channel></rss>".encode()


def test_entries_that_left_the_feed_stay_records(web, tmp_path) -> None:
    def crawl_feed() -> dict[str, tuple[str, str]]:
        seeds = [Seed("news", f"{web.url}/feed", CrawlLimits("host", (), (), 99, 1 << 24, 1, 9), is_feed=True)]
        policy = CrawlPolicy("", 0.0, 30.0, 1, 1.0, 1 << 20, ("127.0.0.1",))
        results = crawl(seeds, policy, TEXT_EXTRACTOR, tmp_path, ProgressReporter("crawl", "pages", None), {}, False)
        outcomes = {fetch.url.removeprefix(web.url): (fetch.state, fetch.reason) for fetch in results}
        mark_delivered(tmp_path)
        return outcomes

    for name in "abc":
        web.html(f"/{name}", f"news {name}", ("/elsewhere",), ETag=f'"{name}"')
    web.pages["/feed"] = rss("/a", "/b")
    listing, record, deep = ("skipped", "listing"), ("record", ""), ("skipped", "depth")
    assert crawl_feed() == {"/feed": listing, "/a": record, "/b": record, "/elsewhere": deep}
    web.pages["/feed"], web.pages["/a"] = rss("/b", "/c"), (304, {}, b"")
    assert crawl_feed() == {"/feed": listing, "/a": record, "/b": record, "/c": record, "/elsewhere": deep}
    assert [headers.get("If-None-Match") for headers in web.headers["/a"]] == [None, '"a"']
