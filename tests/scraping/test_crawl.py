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


def test_links_are_followed_and_each_url_has_one_outcome(web, crawl_site) -> None:
    web.html("/", "start", ("/a", "a#part", "/b?x=1", "http://elsewhere.invalid/"))
    web.html("/a", "page a", ("/", "/b?x=1"))
    web.html("/b?x=1", "page b")
    results = crawl_site()
    assert outcomes(results) == {"/": RECORD, "/a": RECORD, "/b?x=1": RECORD, "http://elsewhere.invalid/": ("skipped", "off-site")}
    assert results["/a"].record.text == "page a\n\n.."
    assert sorted(web.requested_paths) == ["/", "/a", "/b?x=1", "/robots.txt", "/sitemap.xml"]


def test_a_record_names_its_source(web, crawl_site) -> None:
    web.pages["/"] = (200, {"ETag": '"1"'}, b'<html lang="en"><title>T</title><p>x</p>')
    record = crawl_site()["/"].record
    assert (record.source, record.media_type) == (f"{web.url}/", "text/plain")
    assert {name: record.metadata[name] for name in ("title", "lang", "site")} == {
        "title": "T",
        "lang": "en",
        "site": f"{web.url}/",
    }


def test_plain_text_and_markdown_are_unchanged(web, crawl_site) -> None:
    web.html("/", "start", ("/a.txt", "/b.md"))
    web.pages["/a.txt"] = (200, {"Content-Type": "text/plain; charset=latin-1"}, b"a\r\n  <b>\xe4 ")
    web.pages["/b.md"] = (200, {"Content-Type": "text/markdown"}, b"# b\n\n    code\n")
    results = crawl_site()
    assert results["/a.txt"].record.content == "a\r\n  <b>ä ".encode()
    assert (results["/b.md"].record.content, results["/b.md"].record.media_type) == (b"# b\n\n    code\n", "text/markdown")


def test_urls_forbidden_by_robots_txt_are_never_requested(web, crawl_site) -> None:
    web.robots("User-agent: *\nDisallow: /no\nAllow: /no/but\n")
    web.html("/", "start", ("/no/x", "/no/but/y"))
    web.html("/no/but/y")
    assert outcomes(crawl_site()) == {"/": RECORD, "/no/x": ("skipped", "robots"), "/no/but/y": RECORD}
    assert "/no/x" not in web.requested_paths


def test_a_host_whose_robots_txt_fails_is_not_crawled(web, crawl_site) -> None:
    web.pages["/robots.txt"] = (503, {}, b"")
    web.html("/")
    with pytest.raises(ProvenlmError, match=r"start_urls: .*robots-unreachable: robots.txt: HTTP status 503"):
        crawl_site(max_retry_after_seconds=0.0)
    assert set(web.requested_paths) == {"/robots.txt"}


def test_robots_txt_is_followed_through_redirects(web, crawl_site) -> None:
    web.pages["/robots.txt"] = (301, {"Location": "/r"}, b"")
    web.pages["/r"] = (200, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /no")
    web.html("/", "start", ("/no",))
    assert outcomes(crawl_site())["/no"] == ("skipped", "robots")


def test_sitemaps_of_robots_txt_and_recursive_sitemaps_are_read(web, crawl_site) -> None:
    web.robots(f"Sitemap: {web.url}/index.xml")
    inner = (
        f"<sitemapindex><sitemap><loc>{web.url}/index.xml</loc></sitemap><sitemap><loc>/pages.xml.gz</loc></sitemap></sitemapindex>"
    )
    web.pages["/index.xml"] = (200, {}, inner.encode())
    web.pages["/pages.xml.gz"] = (200, {}, gzip.compress(f"<urlset><url><loc>{web.url}/hidden</loc></url></urlset>".encode()))
    web.html("/")
    web.html("/hidden")
    assert outcomes(crawl_site()) == {"/": RECORD, "/hidden": RECORD}
    assert web.requested_paths.count("/index.xml") == 1


def test_every_failure_has_a_reason_and_the_crawl_continues(web, crawl_site) -> None:
    web.html("/", "start", ("/gone", "/broken", "/later", "/picture", "/long", "/empty", "/unwanted", "/unwanted2", "/last"))
    web.pages["/broken"] = (500, {}, b"")
    web.pages["/later"] = [(429, {"Retry-After": "0"}, b""), (200, {}, b"<p>now")]
    web.pages["/picture"] = (200, {"Content-Type": "image/png"}, b"x")
    web.html("/long", "x" * 5000)
    web.pages["/empty"] = (200, {}, b"<html><nav>x</nav></html>")
    web.pages["/unwanted"] = (200, {}, b'<meta name="robots" content="noindex"><p>x')
    web.html("/unwanted2", "x", X_Robots_Tag="noindex")
    web.html("/last")
    results = crawl_site(max_response_bytes=4000, max_retry_after_seconds=0.0)
    assert outcomes(results) == {
        "/": RECORD, "/gone": ("failed", "http-404"), "/broken": ("failed", "http-500"), "/later": RECORD,
        "/picture": ("skipped", "content-type"), "/long": ("skipped", "too-large"), "/empty": ("skipped", "empty"),
        "/unwanted": ("skipped", "noindex"), "/unwanted2": ("skipped", "noindex"), "/last": RECORD,
    }  # fmt: skip
    assert (results["/later"].attempts, results["/gone"].status, results["/gone"].attempts) == (2, 404, 1)


def test_the_target_of_a_redirect_is_a_separate_page(web, crawl_site) -> None:
    web.html("/", "start", ("/old", "/new"))
    web.pages["/old"] = (301, {"Location": "new#part"}, b"")
    web.html("/new")
    assert outcomes(crawl_site()) == {"/": RECORD, "/old": ("skipped", "redirected"), "/new": RECORD}
    assert web.requested_paths.count("/new") == 1


def test_circular_redirects_terminate(web, crawl_site) -> None:
    web.html("/", "start", ("/a", "/self"))
    web.pages["/a"] = (302, {"Location": "/b"}, b"")
    web.pages["/b"] = (302, {"Location": "/a"}, b"")
    web.pages["/self"] = (302, {"Location": "/self"}, b"")
    results = outcomes(crawl_site())
    assert (results["/a"], results["/b"], results["/self"]) == (
        ("skipped", "redirected"), ("skipped", "redirected"), ("skipped", "redirect-loop"),
    )  # fmt: skip
    assert web.requested_paths.count("/a") == 1


def test_endless_redirects_terminate(web, crawl_site) -> None:
    web.html("/", "start", ("/0",))
    for step in range(20):
        web.pages[f"/{step}"] = (302, {"Location": f"/{step + 1}"}, b"")
    results = outcomes(crawl_site())
    assert results["/5"] == ("skipped", "redirect-limit")
    assert "/6" not in web.requested_paths


def test_a_redirect_to_another_site_is_not_followed(web, other_web, crawl_site) -> None:
    web.html("/", "start", ("/a", "/b", "/c"))
    web.pages["/a"] = (302, {"Location": f"{other_web.url}/x"}, b"")
    web.pages["/b"] = (302, {"Location": "http://169.254.169.254/latest/meta-data/"}, b"")
    web.pages["/c"] = (302, {"Location": "file:///etc/passwd"}, b"")
    results = outcomes(crawl_site())
    assert {results[path] for path in ("/a", "/b")} == {("skipped", "redirect-off-site")}
    assert results["/c"] == ("skipped", "redirect-nowhere")
    assert other_web.requested_paths == []


def test_a_redirect_to_a_forbidden_url_is_skipped(web, crawl_site) -> None:
    web.robots("User-agent: *\nDisallow: /no")
    web.html("/", "start", ("/a",))
    web.pages["/a"] = (302, {"Location": "/no"}, b"")
    assert outcomes(crawl_site())["/no"] == ("skipped", "robots")
    assert "/no" not in web.requested_paths


def test_a_private_start_url_must_be_allowed_by_name(web, crawl_site) -> None:
    web.html("/")
    with pytest.raises(ProvenlmError, match=r"private-address: .*allowed_private_hosts must list the host"):
        crawl_site(allowed_private_hosts=())
    assert web.requested_paths == []


def test_a_start_url_that_redirects_off_site_is_reported(web, crawl_site) -> None:
    web.pages["/"] = (301, {"Location": "https://other.invalid/"}, b"")
    with pytest.raises(ProvenlmError, match="redirect-off-site: it redirects to https://other.invalid/"):
        crawl_site()


def test_a_missing_start_url_is_an_error_and_is_retried_next_time(web, crawl_site) -> None:
    with pytest.raises(ProvenlmError, match="http-404"):
        crawl_site()
    web.html("/")
    assert outcomes(crawl_site()) == {"/": RECORD}


def test_a_site_without_any_record_is_an_error(web, crawl_site) -> None:
    web.pages["/"] = (200, {}, b'<meta name="robots" content="noindex"><a href="/gone">x</a>')
    with pytest.raises(ProvenlmError, match="no page of .* became a record"):
        crawl_site()


def test_an_exhausted_budget_gives_each_remaining_url_a_reason(web, crawl_site) -> None:
    web.html("/", "start", ("/a", "/b", "/c"))
    for path in ("/a", "/b", "/c"):
        web.html(path, "x" * 500)
    assert list(outcomes(crawl_site(max_pages=2)).values()) == [
        RECORD,
        RECORD,
        ("skipped", "page-budget"),
        ("skipped", "page-budget"),
    ]
    assert list(outcomes(crawl_site(max_bytes=600)).values())[2:] == [("skipped", "byte-budget"), ("skipped", "byte-budget")]


def test_patterns_and_the_start_folder_limit_a_crawl(web, crawl_site) -> None:
    web.html("/d/", "start", ("/e", "/d/a.html", "/d/b.txt", "/d/old/c.html"))
    web.html("/d/a.html")
    results = outcomes(crawl_site("/d/", scope="folder", include=(r"\.html$",), exclude=("/old/",)))
    assert results == {
        "/d/": RECORD, "/e": ("skipped", "out-of-scope"), "/d/a.html": RECORD, "/d/b.txt": ("skipped", "not-included"),
        "/d/old/c.html": ("skipped", "excluded"),
    }  # fmt: skip


def test_links_are_followed_to_max_depth_from_sitemap_urls_too(web, crawl_site) -> None:
    web.robots(f"Sitemap: {web.url}/map.xml")
    web.pages["/map.xml"] = (200, {}, b"<urlset><url><loc>/listed</loc></url></urlset>")
    web.html("/", "start", ("/1",))
    web.html("/1", "one", ("/2",))
    web.html("/listed", "listed", ("/3",))
    web.html("/3", "three", ("/4",))
    assert outcomes(crawl_site(max_depth=1)) == {
        "/": RECORD, "/listed": RECORD, "/1": RECORD, "/3": RECORD, "/2": ("skipped", "depth"), "/4": ("skipped", "depth"),
    }  # fmt: skip


def test_a_second_crawl_downloads_only_changed_pages(web, crawl_site) -> None:
    date = formatdate(1_700_000_000, usegmt=True)
    web.html("/", "start", ("/a", "/b"), ETag='"s"')
    web.html("/a", "old", Last_Modified=date)
    web.html("/b", "same", ETag='W/"b"')
    first = crawl_site()
    web.pages["/"] = web.pages["/b"] = (304, {}, b"")
    web.html("/a", "new")
    second = crawl_site()
    assert [headers.get("If-None-Match") for headers in web.headers["/b"]] == [None, 'W/"b"']
    assert [headers.get("If-Modified-Since") for headers in web.headers["/a"]] == [None, date]
    assert {path: fetch.status for path, fetch in second.items()} == {"/": 304, "/a": 200, "/b": 304}
    assert (second["/"].record, second["/b"].record) == (first["/"].record, first["/b"].record)
    assert second["/a"].record.text == "new"


@pytest.mark.parametrize("answer", [(503, {}, b""), (500, {}, b""), lambda handler: setattr(handler, "close_connection", True)])
def test_a_page_with_a_transient_failure_stays_as_stale(web, crawl_site, answer) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a", "page a", ("/behind",))
    web.html("/behind", "only page a leads here")
    first = crawl_site(max_attempts=1)
    web.pages["/a"] = answer
    second = crawl_site(max_attempts=1)
    assert outcomes(second) == {"/": RECORD, "/a": ("record", "stale"), "/behind": RECORD}
    assert second["/a"].record == first["/a"].record
    assert crawl_site(max_attempts=1)["/a"].reason == "stale"  # and in the next crawl


@pytest.mark.parametrize("status", [404, 410, 403])
def test_a_deleted_page_is_removed(web, crawl_site, status: int) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a", "page a")
    crawl_site()
    web.pages["/a"] = (status, {}, b"")
    assert outcomes(crawl_site())["/a"] == ("failed", f"http-{status}")


def test_an_unavailable_start_url_is_an_error_and_not_stale(web, crawl_site) -> None:
    web.html("/", "start")
    crawl_site()
    web.pages["/"] = (503, {}, b"")
    with pytest.raises(ProvenlmError, match="http-503"):
        crawl_site(max_attempts=1)


def test_a_page_with_the_same_text_is_the_same_record(web, crawl_site) -> None:
    web.pages["/"] = (200, {"ETag": '"1"'}, b"<!-- 1 --><p>text")
    first = crawl_site()["/"]
    web.pages["/"] = (200, {"ETag": '"2"'}, b"<!-- 2 --><p>text")
    assert crawl_site()["/"].record == first.record


def test_an_unrequested_304_is_a_failure(web, crawl_site) -> None:
    web.html("/", "start", ("/a",))
    web.pages["/a"] = (304, {}, b"")
    assert outcomes(crawl_site())["/a"] == ("failed", "http-304")


def test_a_host_that_stops_responding_keeps_its_earlier_pages(web, crawl_site) -> None:
    web.html("/", "start", tuple(f"/{number}" for number in range(12)))
    for number in range(12):
        web.html(f"/{number}")

    def dies(handler) -> None:
        handler.close_connection = True

    for number in range(3, 12):
        web.pages[f"/{number}"] = dies
    results = outcomes(crawl_site(max_attempts=1))
    assert [results[f"/{number}"] for number in range(3)] == [RECORD] * 3
    assert [results[f"/{number}"] for number in range(3, 8)] == [("failed", "connection")] * 5
    assert [results[f"/{number}"] for number in range(8, 12)] == [("failed", "host-silent")] * 4


def test_a_damaged_crawl_store_is_reported_with_its_remedy(web, crawl_site, tmp_path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "crawl.sqlite").write_bytes(b"not a database, by far" * 100)
    web.html("/")
    with pytest.raises(ProvenlmError, match=r"crawl\.sqlite: .*delete the file"):
        crawl_site()


def test_a_crawl_store_of_another_version_is_reported(web, crawl_site, tmp_path) -> None:
    web.html("/")
    crawl_site()
    with sqlite3.connect(tmp_path / "state" / "crawl.sqlite") as state:
        state.execute("pragma user_version = 99")
    with pytest.raises(ProvenlmError, match=r"crawl\.sqlite: written by another version"):
        crawl_site()


def test_progress_reports_finished_and_known_urls(web, crawl_site, capsys) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a")
    crawl_site()
    lines = [
        json.loads(line.removeprefix(PROGRESS_PREFIX))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(PROGRESS_PREFIX)
    ]
    assert lines[-1]["done"] == lines[-1]["total"] == 2


def test_text_with_a_lone_surrogate_is_valid_utf_8(web, crawl_site) -> None:
    web.pages["/"] = (200, {}, b"<p>a&#xD800;b</p>")
    assert crawl_site()["/"].record.content.decode("utf-8").startswith("a")
