import pytest

from provenlm.scraping.crawl.trap_guard import TrapGuard, url_template
from provenlm.scraping.crawl.urls import CrawlLimits, Seed, match_seed, normalize_url


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://h/search?q=a", "http://h/search"),
        ("http://h/calendar/2026/11/21", "http://h/calendar/#"),
        ("http://h/calendar/2026-11-21/", "http://h/calendar/#/"),
        ("http://h/events/2026/11?view=day", "http://h/events/#"),
        ("http://h/2026/11/21/a-title", ""),  # an article, not a calendar page
        ("http://h/issues/12345", ""),
        ("http://h/a", ""),
    ],
)
def test_urls_of_a_template_differ_in_query_or_trailing_date(url: str, kind: str) -> None:
    assert url_template(url) == kind


def test_the_first_urls_of_a_template_pass_and_count_once() -> None:
    trap_guard = TrapGuard(["http://h/s?0"])
    reasons = [trap_guard.skip_reason(f"http://h/s?{number}", 3) for number in (0, 1, 1, 2, 3, 4, 1)]
    assert reasons == ["", "", "", "", "trap-variants", "trap-variants", ""]
    assert trap_guard.skip_reason("http://h/other?3", 3) == ""


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://h/a;jsessionid=0F3A?x=1", "http://h/a?x=1"),
        ("http://h/a?PHPSESSID=abc&x=1", "http://h/a?x=1"),
        ("http://h/a?x=1&utm_source=feed&utm_medium=rss", "http://h/a?x=1"),
        ("http://h/a?sid=0123456789abcdef0123", "http://h/a"),
        ("http://h/a?sid=12&s=term", "http://h/a?sid=12&s=term"),  # too short for a session id
    ],
)
def test_session_and_campaign_parameters_are_removed(url: str, same: str) -> None:
    assert normalize_url(url) == same


@pytest.mark.parametrize(
    ("path", "trapped"), [("/a/b/a/b/a/b/x", True), ("/a/a/a", True), ("/a/b/a/b/c", False), ("/ab/a/a", False)]
)
def test_repeated_folders_are_a_trap(path: str, trapped: bool) -> None:
    site = Seed("s", "http://h/", CrawlLimits("host", (), (), 1, 1, 1, 1))
    assert (match_seed(f"http://h{path}", [site])[1] == "trap-repetition") is trapped


def test_an_endless_calendar_terminates_and_other_pages_are_read(web, crawl_site) -> None:
    def day(handler) -> None:
        number = int(handler.path.rsplit("-", 1)[1])
        links = "".join(f'<a href="/calendar/2026-11-{n:02}">.</a>' for n in (number + 1, number + 2)) + '<a href="/real">.</a>'
        body = f"<p>day {number}</p>{links}".encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    web.html("/", "start", ("/calendar/2026-11-01",))
    web.html("/real", "found")
    for number in range(1, 32):
        web.pages[f"/calendar/2026-11-{number:02}"] = day
    results = crawl_site(max_url_variants=5)
    assert sum(path.startswith("/calendar") and fetch.state == "record" for path, fetch in results.items()) == 5
    assert {fetch.reason for fetch in results.values() if fetch.state == "skipped"} == {"trap-variants"}
    assert results["/real"].state == "record"


def test_a_link_that_grows_at_every_visit_terminates(web, crawl_site) -> None:
    class Growing(dict):
        def get(self, path, default=None):
            return super().get(path) or (200, {}, f'<p>page {path}</p><a href="{path.rstrip("/")}/more/more/x">.</a>'.encode())

    web.pages = Growing({"/robots.txt": (404, {}, b""), "/sitemap.xml": (404, {}, b"")})
    results = crawl_site()
    assert any(fetch.reason == "trap-repetition" for fetch in results.values())
    assert len(results) < 20


def test_a_page_is_skipped_in_favour_of_its_canonical_page(web, crawl_site) -> None:
    text = "<p>one</p><p>two</p><p>three</p>"
    web.html("/", "start", ("/print",))
    web.pages["/print"] = (200, {}, f'<link rel="canonical" href="/page"><p>printed</p>{text}'.encode())
    web.pages["/page"] = (200, {}, f'<link rel="canonical" href="/page">{text}'.encode())
    results = crawl_site()
    assert (results["/print"].reason, results["/page"].reason) == ("canonical", "")


def test_a_canonical_url_with_other_text_hides_no_page(web, crawl_site) -> None:
    web.html("/", "the front page", ("/a", "/b", "/c", "/d"))
    web.pages["/a"] = (200, {}, b'<link rel="canonical" href="/"><p>page a, of a site whose every page names the front page</p>')
    web.pages["/b"] = (200, {}, b'<link rel="canonical" href="/gone"><p>page b</p>')
    web.pages["/c"] = (200, {}, b'<link rel="canonical" href="/d"><p>same</p>')
    web.pages["/d"] = (200, {}, b'<link rel="canonical" href="/c"><p>same</p>')
    results = crawl_site()
    assert [results[f"/{name}"].state for name in "abcd"] == ["record"] * 4
