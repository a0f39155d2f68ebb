import re
import sys

import pytest

from provenlm.core import config, interfaces, registry
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.domains.text.scrape.spec import TextScrapeConfig
from provenlm.scraping.crawl.database import mark_delivered

CRAWL_POLICY = {
    "user_agent_contact": "", "download_delay_seconds": 1.0, "timeout_seconds": 10.0, "max_attempts": 2, "max_retry_after_seconds": 5.0, "max_response_bytes": 1 << 20,
    "allowed_private_hosts": [],
}  # fmt: skip
LIMITS = {
    "scope": "folder",
    "include": [],
    "exclude": [],
    "max_pages": 1000,
    "max_bytes": 1 << 28,
    "max_depth": 9,
    "max_url_variants": 99,
}


def site(*start: str, **limits: object) -> dict[str, object]:
    return {"kind": "site", "start_urls": list(start), "limits": {**LIMITS, **limits}, "license": None}


def make_section(sources: list, contact: str = "", topics: tuple = ()) -> dict[str, object]:
    return {
        "sources": sources,
        "crawl_policy": {**CRAWL_POLICY, "user_agent_contact": contact},
        "topics": list(topics),
        "from_cache": False,
    }


def make_config(*start: str, contact: str = "") -> TextScrapeConfig:
    section = make_section([site(*start)], contact)
    return config.parse_config(TextScrapeConfig, section, "params.yaml: corpora.docs.scrape")


def scrape(state, *start: str):
    spec = registry.load_domain("text", "scrape", interfaces.ScrapeSpec)
    fetches = list(spec.fetch(make_config(*start), state, ProgressReporter("scrape", "URLs", None)))
    mark_delivered(state)
    return fetches


def test_a_web_site_needs_a_contact() -> None:
    with pytest.raises(ProvenlmError, match=r"corpora.docs.scrape: crawl_policy.user_agent_contact must be"):
        make_config("https://example.org/")
    assert make_config("https://example.org/", contact="mailto:me@example.org").web_sources[0].start_urls == (
        "https://example.org/",
    )


def test_the_time_limit_of_a_page_is_positive() -> None:
    section = {**make_section([site("pydoc:stdlib")], ""), "max_page_seconds": 0.0}
    with pytest.raises(ProvenlmError, match=r"max_page_seconds must be > 0, got 0.0"):
        config.parse_config(TextScrapeConfig, section, "params.yaml: corpora.docs.scrape")


@pytest.mark.parametrize("start", ["ftp://example.org/", "stdlib", "http://", ""])
def test_a_start_that_is_no_url_is_refused(start: str) -> None:
    with pytest.raises(ProvenlmError, match="start_urls must be http"):
        make_config(start, contact="x")


def test_no_start_is_refused() -> None:
    with pytest.raises(ProvenlmError, match="start_urls must contain a URL"):
        make_config()


def test_the_documentation_of_a_package_becomes_records(tmp_path) -> None:
    fetches = scrape(tmp_path, "pydoc:requests", "pydoc:bs4")
    records = {fetch.url: fetch.record for fetch in fetches if fetch.record}
    sessions = records["http://pydoc.localhost/requests/requests.sessions.html"]
    assert sessions.metadata["site"] == "pydoc:requests"
    assert "Provides cookie persistence, connection-pooling, and configuration." in sessions.text
    assert (
        "  >>> with requests.Session() as s:\n  ...     s.get('https://httpbin.org/get')\n" in sessions.text
    )  # as it is indented in its docstring
    assert "http://pydoc.localhost/bs4/bs4.element.html" in records
    everything = "".join(record.text for record in records.values())
    for part in (sys.prefix, sys.base_prefix, " at 0x", "\u00a0", "127.0.0.1:"):
        assert part not in everything


def test_two_scrapes_give_the_same_records_except_for_their_date(tmp_path) -> None:
    first, second = (scrape(tmp_path / name, "pydoc:urllib3") for name in "ab")
    assert [(fetch.url, fetch.state, fetch.reason) for fetch in first] == [
        (fetch.url, fetch.state, fetch.reason) for fetch in second
    ]
    assert [fetch.record and fetch.record.content for fetch in first] == [fetch.record and fetch.record.content for fetch in second]


def test_a_repeated_scrape_downloads_no_page_and_gives_the_same_records(tmp_path) -> None:
    first, second = (scrape(tmp_path, "pydoc:bs4") for _ in "ab")
    assert {fetch.status for fetch in second if fetch.record} == {304}
    assert [fetch.record for fetch in first] == [fetch.record for fetch in second]


def test_a_module_with_side_effects_is_excluded_by_the_site_itself(tmp_path) -> None:
    fetches = {}
    for fetch in registry.load_domain("text", "scrape", interfaces.ScrapeSpec).fetch(
        config.parse_config(
            TextScrapeConfig,
            make_section([site("pydoc:stdlib", include=["/(this|antigravity|abc).html"])]),
            "x",
        ),
        tmp_path,
        ProgressReporter("scrape", "URLs", None),
    ):
        fetches[fetch.url] = (fetch.state, fetch.reason)
    assert fetches["http://pydoc.localhost/stdlib/this.html"] == ("skipped", "robots")
    assert fetches["http://pydoc.localhost/stdlib/abc.html"] == ("record", "")
    assert [url for url, outcome in fetches.items() if outcome[0] == "record" and not re.search(r"abc.html$", url)] == []
