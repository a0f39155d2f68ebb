import pytest
from requests.structures import CaseInsensitiveDict

from provenlm.scraping.crawl.fetcher import Response
from provenlm.scraping.crawl.robots import parse_robots


def _rules(text: str | bytes, status: int | None = 200, reason: str = ""):
    body = text.encode() if isinstance(text, str) else text
    return parse_robots(Response(status, reason, CaseInsensitiveDict(), body, len(body), 1, 0.0))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/", True), ("/private/", False), ("/private/open/x", True), ("/a.php", False), ("/a.php?x", True), ("/Private/", True)],
)
def test_the_longest_match_decides(path: str, allowed: bool) -> None:
    rules = _rules("User-agent: *\nAllow: /\nDisallow: /private/\nAllow: /private/open/\nDisallow: /*.php$")
    assert (rules.skip_reason(f"http://h{path}") == "") is allowed


def test_the_group_of_our_user_agent_replaces_the_wildcard() -> None:
    rules = _rules("User-agent: *\nDisallow: /\n\nUser-agent: Provenlm\nDisallow: /x\n")
    assert rules.skip_reason("http://h/y") == ""
    assert rules.skip_reason("http://h/x") == "robots"


def test_groups_of_the_same_name_are_merged() -> None:
    rules = _rules("User-agent: provenlm\nDisallow: /a\n\nUser-agent: provenlm\nDisallow: /b\n")
    assert [rules.skip_reason(f"http://h/{path}") for path in "abc"] == ["robots", "robots", ""]


def test_a_byte_order_mark_hides_no_rule() -> None:
    assert _rules(b"\xef\xbb\xbfUser-agent: *\nDisallow: /x").skip_reason("http://h/x") == "robots"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_missing_robots_txt_allows_everything(status: int) -> None:
    assert _rules("User-agent: *\nDisallow: /", status, f"http-{status}").skip_reason("http://h/x") == ""


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_an_unreachable_robots_txt_forbids_everything(status: int | None) -> None:
    assert _rules("", status, "x").skip_reason("http://h/x") == "robots-unreachable"


def test_html_as_robots_txt_forbids_nothing() -> None:
    assert _rules("<html><body>Disallow: / is what we do not say</body></html>").skip_reason("http://h/x") == ""


def test_the_crawl_delay_is_honoured_and_capped() -> None:
    assert _rules("User-agent: *\nCrawl-delay: 2.5").crawl_delay(60.0) == 2.5
    assert _rules("User-agent: *\nCrawl-delay: 86400").crawl_delay(60.0) == 60.0
    assert _rules("").crawl_delay(60.0) == 0.0
