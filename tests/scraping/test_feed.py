from provenlm.core.progress import Progress
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import Manners
from provenlm.scraping.crawl.urls import Bounds, Site
from provenlm.scraping.extraction.reader import TEXT
from provenlm.scraping.sources.feed import entries

RSS = """<?xml version="1.0"?><rss version="2.0"><channel><link>http://h/</link>
<item><title>a</title><link>http://h/a</link><guid isPermaLink="false">7</guid></item>
<item><guid>http://h/b#x</guid></item><item><title>none</title></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><link href="http://h/"/>
<entry><link rel="edit" href="/edit"/><link href="/a"/></entry><entry><link rel="alternate" href="b?x"/></entry></feed>"""


def test_rss_and_atom_list_their_entries() -> None:
    assert list(entries(RSS.encode(), "http://h/f")) == ["http://h/a", "http://h/b"]
    assert list(entries(ATOM.encode(), "http://h/f")) == ["http://h/a", "http://h/b?x"]


def test_what_is_no_feed_lists_nothing() -> None:
    assert list(entries(b"<html>not <b>closed", "http://h/")) == []
    assert list(entries(b"", "http://h/")) == []
    bomb = b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><rss><item><link>&b;</link></item></rss>'
    assert list(entries(bomb, "http://h/")) == []


def test_a_feed_that_breaks_off_gives_what_came_before() -> None:
    assert list(entries(RSS.encode()[:190], "http://h/f")) == ["http://h/a"]


def rss(*paths: str) -> tuple[int, dict[str, str], bytes]:
    items = "".join(f"<item><link>{path}</link></item>" for path in paths)
    return 200, {"Content-Type": "application/rss+xml"}, f"<rss><channel>{items}</channel></rss>".encode()


def test_a_feed_leads_to_its_pages_and_what_it_lists_no_more_stays(web, tmp_path) -> None:
    def crawled() -> dict[str, tuple[str, str]]:
        sites = [Site("news", f"{web.url}/feed", Bounds("host", (), (), 99, 1 << 24, 1, 9), feed=True)]
        manners = Manners("", 0.0, 30.0, 1, 1.0, 1 << 20, ("127.0.0.1",))
        found = crawl(sites, manners, TEXT, tmp_path, Progress("crawl", "pages", None), {}, False)
        return {fetch.url.removeprefix(web.url): (fetch.state, fetch.reason) for fetch in found}

    for name in "abc":
        web.html(f"/{name}", f"news {name}", ("/elsewhere",), ETag=f'"{name}"')
    web.pages["/feed"] = rss("/a", "/b")
    listing, record, deep = ("refused", "listing"), ("record", ""), ("refused", "depth")
    assert crawled() == {"/feed": listing, "/a": record, "/b": record, "/elsewhere": deep}
    web.pages["/feed"], web.pages["/a"] = rss("/b", "/c"), (304, {}, b"")
    assert crawled() == {"/feed": listing, "/a": record, "/b": record, "/c": record, "/elsewhere": deep}
    assert [headers.get("If-None-Match") for headers in web.headers["/a"]] == [None, '"a"']
