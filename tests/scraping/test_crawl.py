import gzip
import json
import sqlite3
from email.utils import formatdate

import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import PROGRESS_PREFIX


def outcomes(results) -> dict[str, tuple[str, str]]:
    return {path: (fetch.state, fetch.reason) for path, fetch in results.items()}


RECORD = ("record", "")


def test_links_are_followed_and_each_address_ends_once(web, crawling) -> None:
    web.html("/", "start", ("/a", "a#part", "/b?x=1", "http://elsewhere.invalid/"))
    web.html("/a", "page a", ("/", "/b?x=1"))
    web.html("/b?x=1", "page b")
    results = crawling()
    assert outcomes(results) == {"/": RECORD, "/a": RECORD, "/b?x=1": RECORD, "http://elsewhere.invalid/": ("refused", "off-site")}
    assert results["/a"].record.text == "page a\n\n.."
    assert sorted(web.asked) == ["/", "/a", "/b?x=1", "/robots.txt", "/sitemap.xml"]


def test_a_record_says_where_it_comes_from(web, crawling) -> None:
    web.pages["/"] = (200, {"ETag": '"1"'}, b'<html lang="en"><title>T</title><p>x</p>')
    record = crawling()["/"].record
    assert (record.source, record.media_type) == (f"{web.url}/", "text/plain")
    assert {name: record.facts[name] for name in ("title", "lang", "site")} == {"title": "T", "lang": "en", "site": f"{web.url}/"}


def test_plain_text_and_markdown_are_taken_as_they_are(web, crawling) -> None:
    web.html("/", "start", ("/a.txt", "/b.md"))
    web.pages["/a.txt"] = (200, {"Content-Type": "text/plain; charset=latin-1"}, b"a\r\n  <b>\xe4 ")
    web.pages["/b.md"] = (200, {"Content-Type": "text/markdown"}, b"# b\n\n    code\n")
    results = crawling()
    assert results["/a.txt"].record.body == "a\r\n  <b>ä ".encode()
    assert (results["/b.md"].record.body, results["/b.md"].record.media_type) == (b"# b\n\n    code\n", "text/markdown")


def test_what_robots_txt_forbids_is_never_asked_for(web, crawling) -> None:
    web.robots("User-agent: *\nDisallow: /no\nAllow: /no/but\n")
    web.html("/", "start", ("/no/x", "/no/but/y"))
    web.html("/no/but/y")
    assert outcomes(crawling()) == {"/": RECORD, "/no/x": ("refused", "robots"), "/no/but/y": RECORD}
    assert "/no/x" not in web.asked


def test_a_host_whose_robots_txt_fails_is_not_crawled(web, crawling) -> None:
    web.pages["/robots.txt"] = (503, {}, b"")
    web.html("/")
    with pytest.raises(ProvenlmError, match=r"start: .*robots-unreachable: robots.txt: HTTP status 503"):
        crawling(max_wait_seconds=0.0)
    assert set(web.asked) == {"/robots.txt"}


def test_robots_txt_is_followed_through_redirects(web, crawling) -> None:
    web.pages["/robots.txt"] = (301, {"Location": "/r"}, b"")
    web.pages["/r"] = (200, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /no")
    web.html("/", "start", ("/no",))
    assert outcomes(crawling())["/no"] == ("refused", "robots")


def test_a_sitemap_named_in_robots_txt_and_one_that_names_itself_are_read(web, crawling) -> None:
    web.robots(f"Sitemap: {web.url}/index.xml")
    inner = (
        f"<sitemapindex><sitemap><loc>{web.url}/index.xml</loc></sitemap><sitemap><loc>/pages.xml.gz</loc></sitemap></sitemapindex>"
    )
    web.pages["/index.xml"] = (200, {}, inner.encode())
    web.pages["/pages.xml.gz"] = (200, {}, gzip.compress(f"<urlset><url><loc>{web.url}/hidden</loc></url></urlset>".encode()))
    web.html("/")
    web.html("/hidden")
    assert outcomes(crawling()) == {"/": RECORD, "/hidden": RECORD}
    assert web.asked.count("/index.xml") == 1


def test_every_way_to_fail_has_its_reason_and_the_crawl_goes_on(web, crawling) -> None:
    web.html("/", "start", ("/gone", "/broken", "/later", "/picture", "/long", "/empty", "/unwanted", "/unwanted2", "/last"))
    web.pages["/broken"] = (500, {}, b"")
    web.pages["/later"] = [(429, {"Retry-After": "0"}, b""), (200, {}, b"<p>now")]
    web.pages["/picture"] = (200, {"Content-Type": "image/png"}, b"x")
    web.html("/long", "x" * 5000)
    web.pages["/empty"] = (200, {}, b"<html><nav>x</nav></html>")
    web.pages["/unwanted"] = (200, {}, b'<meta name="robots" content="noindex"><p>x')
    web.html("/unwanted2", "x", X_Robots_Tag="noindex")
    web.html("/last")
    results = crawling(max_page_bytes=4000, max_wait_seconds=0.0)
    assert outcomes(results) == {
        "/": RECORD, "/gone": ("failed", "http-404"), "/broken": ("failed", "http-500"), "/later": RECORD,
        "/picture": ("refused", "content-type"), "/long": ("refused", "too-large"), "/empty": ("refused", "empty"),
        "/unwanted": ("refused", "noindex"), "/unwanted2": ("refused", "noindex"), "/last": RECORD,
    }  # fmt: skip
    assert (results["/later"].tries, results["/gone"].status, results["/gone"].tries) == (2, 404, 1)


def test_the_target_of_a_redirect_is_a_page_of_its_own(web, crawling) -> None:
    web.html("/", "start", ("/old", "/new"))
    web.pages["/old"] = (301, {"Location": "new#part"}, b"")
    web.html("/new")
    assert outcomes(crawling()) == {"/": RECORD, "/old": ("refused", "redirected"), "/new": RECORD}
    assert web.asked.count("/new") == 1


def test_redirects_in_a_circle_end(web, crawling) -> None:
    web.html("/", "start", ("/a", "/self"))
    web.pages["/a"] = (302, {"Location": "/b"}, b"")
    web.pages["/b"] = (302, {"Location": "/a"}, b"")
    web.pages["/self"] = (302, {"Location": "/self"}, b"")
    results = outcomes(crawling())
    assert (results["/a"], results["/b"], results["/self"]) == (
        ("refused", "redirected"), ("refused", "redirected"), ("refused", "redirect-loop"),
    )  # fmt: skip
    assert web.asked.count("/a") == 1


def test_redirects_without_end_end(web, crawling) -> None:
    web.html("/", "start", ("/0",))
    for step in range(20):
        web.pages[f"/{step}"] = (302, {"Location": f"/{step + 1}"}, b"")
    results = outcomes(crawling())
    assert results["/5"] == ("refused", "redirect-limit")
    assert "/6" not in web.asked


def test_a_redirect_to_another_site_is_not_followed(web, other_web, crawling) -> None:
    web.html("/", "start", ("/a", "/b", "/c"))
    web.pages["/a"] = (302, {"Location": f"{other_web.url}/x"}, b"")
    web.pages["/b"] = (302, {"Location": "http://169.254.169.254/latest/meta-data/"}, b"")
    web.pages["/c"] = (302, {"Location": "file:///etc/passwd"}, b"")
    results = outcomes(crawling())
    assert {results[path] for path in ("/a", "/b")} == {("refused", "redirect-off-site")}
    assert results["/c"] == ("refused", "redirect-nowhere")
    assert other_web.asked == []


def test_a_redirect_into_what_robots_txt_forbids_is_refused(web, crawling) -> None:
    web.robots("User-agent: *\nDisallow: /no")
    web.html("/", "start", ("/a",))
    web.pages["/a"] = (302, {"Location": "/no"}, b"")
    assert outcomes(crawling())["/no"] == ("refused", "robots")
    assert "/no" not in web.asked


def test_a_start_at_a_private_address_is_refused_unless_allowed_by_name(web, crawling) -> None:
    web.html("/")
    with pytest.raises(ProvenlmError, match=r"private-address: .*allow_private admits a host by name"):
        crawling(allow_private=())
    assert web.asked == []


def test_a_start_that_leads_to_another_site_names_it(web, crawling) -> None:
    web.pages["/"] = (301, {"Location": "https://other.invalid/"}, b"")
    with pytest.raises(ProvenlmError, match="redirect-off-site: it redirects to https://other.invalid/"):
        crawling()


def test_a_start_that_is_not_there_is_an_error_and_is_asked_again_the_next_time(web, crawling) -> None:
    with pytest.raises(ProvenlmError, match="http-404"):
        crawling()
    web.html("/")
    assert outcomes(crawling()) == {"/": RECORD}


def test_a_site_without_a_page_to_keep_is_an_error(web, crawling) -> None:
    web.pages["/"] = (200, {}, b'<meta name="robots" content="noindex"><a href="/gone">x</a>')
    with pytest.raises(ProvenlmError, match="no page of .* became a record"):
        crawling()


def test_budgets_end_in_a_reason_for_each_address_left(web, crawling) -> None:
    web.html("/", "start", ("/a", "/b", "/c"))
    for path in ("/a", "/b", "/c"):
        web.html(path, "x" * 500)
    assert list(outcomes(crawling(max_pages=2)).values()) == [
        RECORD,
        RECORD,
        ("refused", "page-budget"),
        ("refused", "page-budget"),
    ]
    assert list(outcomes(crawling(max_bytes=600)).values())[2:] == [("refused", "byte-budget"), ("refused", "byte-budget")]


def test_patterns_and_the_folder_of_the_start_bound_a_crawl(web, crawling) -> None:
    web.html("/d/", "start", ("/e", "/d/a.html", "/d/b.txt", "/d/old/c.html"))
    web.html("/d/a.html")
    results = outcomes(crawling("/d/", scope="folder", include=(r"\.html$",), exclude=("/old/",)))
    assert results == {
        "/d/": RECORD, "/e": ("refused", "out-of-scope"), "/d/a.html": RECORD, "/d/b.txt": ("refused", "not-included"),
        "/d/old/c.html": ("refused", "excluded"),
    }  # fmt: skip


def test_links_are_followed_to_a_depth_and_a_sitemap_begins_anew(web, crawling) -> None:
    web.robots(f"Sitemap: {web.url}/map.xml")
    web.pages["/map.xml"] = (200, {}, b"<urlset><url><loc>/listed</loc></url></urlset>")
    web.html("/", "start", ("/1",))
    web.html("/1", "one", ("/2",))
    web.html("/listed", "listed", ("/3",))
    web.html("/3", "three", ("/4",))
    assert outcomes(crawling(max_depth=1)) == {
        "/": RECORD, "/listed": RECORD, "/1": RECORD, "/3": RECORD, "/2": ("refused", "depth"), "/4": ("refused", "depth"),
    }  # fmt: skip


def test_a_second_crawl_asks_only_for_what_changed(web, crawling) -> None:
    date = formatdate(1_700_000_000, usegmt=True)
    web.html("/", "start", ("/a", "/b"), ETag='"s"')
    web.html("/a", "old", Last_Modified=date)
    web.html("/b", "same", ETag='W/"b"')
    first = crawling()
    web.pages["/"] = web.pages["/b"] = (304, {}, b"")
    web.html("/a", "new")
    second = crawling()
    assert [headers.get("If-None-Match") for headers in web.headers["/b"]] == [None, 'W/"b"']
    assert [headers.get("If-Modified-Since") for headers in web.headers["/a"]] == [None, date]
    assert {path: fetch.status for path, fetch in second.items()} == {"/": 304, "/a": 200, "/b": 304}
    assert (second["/"].record, second["/b"].record) == (first["/"].record, first["/b"].record)
    assert second["/a"].record.text == "new"


@pytest.mark.parametrize("answer", [(503, {}, b""), (500, {}, b""), lambda handler: setattr(handler, "close_connection", True)])
def test_a_page_that_cannot_be_had_for_the_moment_stays_as_it_was(web, crawling, answer) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a", "page a", ("/behind",))
    web.html("/behind", "only page a leads here")
    first = crawling(tries=1)
    web.pages["/a"] = answer
    second = crawling(tries=1)
    assert outcomes(second) == {"/": RECORD, "/a": ("record", "stale"), "/behind": RECORD}
    assert second["/a"].record == first["/a"].record
    assert crawling(tries=1)["/a"].reason == "stale"  # and once more


@pytest.mark.parametrize("status", [404, 410, 403])
def test_a_page_that_is_no_more_goes(web, crawling, status: int) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a", "page a")
    crawling()
    web.pages["/a"] = (status, {}, b"")
    assert outcomes(crawling())["/a"] == ("failed", f"http-{status}")


def test_a_start_that_is_away_is_an_error_and_no_stale_success(web, crawling) -> None:
    web.html("/", "start")
    crawling()
    web.pages["/"] = (503, {}, b"")
    with pytest.raises(ProvenlmError, match="http-503"):
        crawling(tries=1)


def test_a_page_served_again_with_the_same_text_is_the_same_record(web, crawling) -> None:
    web.pages["/"] = (200, {"ETag": '"1"'}, b"<!-- 1 --><p>text")
    first = crawling()["/"]
    web.pages["/"] = (200, {"ETag": '"2"'}, b"<!-- 2 --><p>text")
    assert crawling()["/"].record == first.record


def test_a_304_that_nobody_asked_for_is_a_failure(web, crawling) -> None:
    web.html("/", "start", ("/a",))
    web.pages["/a"] = (304, {}, b"")
    assert outcomes(crawling())["/a"] == ("failed", "http-304")


def test_a_host_that_dies_half_way_is_given_up_and_its_pages_are_kept(web, crawling) -> None:
    web.html("/", "start", tuple(f"/{number}" for number in range(12)))
    for number in range(12):
        web.html(f"/{number}")

    def dies(handler) -> None:
        handler.close_connection = True

    for number in range(3, 12):
        web.pages[f"/{number}"] = dies
    results = outcomes(crawling(tries=1))
    assert [results[f"/{number}"] for number in range(3)] == [RECORD] * 3
    assert [results[f"/{number}"] for number in range(3, 8)] == [("failed", "connection")] * 5
    assert [results[f"/{number}"] for number in range(8, 12)] == [("failed", "host-silent")] * 4


def test_a_damaged_state_is_named_with_the_way_out(web, crawling, tmp_path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "crawl.sqlite").write_bytes(b"not a database, by far" * 100)
    web.html("/")
    with pytest.raises(ProvenlmError, match=r"crawl\.sqlite: .*delete the file"):
        crawling()


def test_a_state_of_another_version_is_named_with_the_way_out(web, crawling, tmp_path) -> None:
    web.html("/")
    crawling()
    with sqlite3.connect(tmp_path / "state" / "crawl.sqlite") as state:
        state.execute("pragma user_version = 99")
    with pytest.raises(ProvenlmError, match=r"crawl\.sqlite: written by another version"):
        crawling()


def test_progress_is_told_with_what_is_known_of_the_whole(web, crawling, capsys) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a")
    crawling()
    lines = [
        json.loads(line.removeprefix(PROGRESS_PREFIX))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(PROGRESS_PREFIX)
    ]
    assert lines[-1]["done"] == lines[-1]["total"] == 2


def test_text_with_half_a_surrogate_is_still_utf_8(web, crawling) -> None:
    web.pages["/"] = (200, {}, b"<p>a&#xD800;b</p>")
    assert crawling()["/"].record.body.decode("utf-8").startswith("a")
