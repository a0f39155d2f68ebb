import re
import sys

import pytest

from provenlm.core import config, interfaces, registry
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress
from provenlm.domains.text.scrape.spec import Settings

MANNERS = {
    "contact": "", "delay_seconds": 1.0, "timeout_seconds": 10.0, "tries": 2, "max_wait_seconds": 5.0, "max_page_bytes": 1 << 20,
    "allow_private": [],
}  # fmt: skip
BOUNDS = {
    "scope": "folder",
    "include": [],
    "exclude": [],
    "max_pages": 1000,
    "max_bytes": 1 << 28,
    "max_depth": 9,
    "max_variants": 99,
}


def site(*start: str, **changed: object) -> dict[str, object]:
    return {"kind": "site", "start": list(start), "bounds": {**BOUNDS, **changed}, "licence": None}


def section_of(sources: list, contact: str = "", taxonomy: tuple = ()) -> dict[str, object]:
    return {"sources": sources, "manners": {**MANNERS, "contact": contact}, "taxonomy": list(taxonomy), "offline": False}


def settings(*start: str, contact: str = "") -> Settings:
    section = section_of([site(*start)], contact)
    return config.parse(Settings, section, "params.yaml: corpora.docs.scrape")


def scraped(state, *start: str):
    face = registry.load_domain("text", "scrape", interfaces.Scraping)
    return list(face.fetch(settings(*start), state, Progress("scrape", "addresses", None)))


def test_a_web_site_wants_a_contact() -> None:
    with pytest.raises(UserError, match=r"corpora.docs.scrape: manners.contact: name an address"):
        settings("https://example.org/")
    assert settings("https://example.org/", contact="mailto:me@example.org").web[0].start == ("https://example.org/",)


@pytest.mark.parametrize("start", ["ftp://example.org/", "stdlib", "http://", ""])
def test_a_start_that_is_no_address_is_refused(start: str) -> None:
    with pytest.raises(UserError, match="is neither an http"):
        settings(start, contact="x")


def test_no_start_is_refused() -> None:
    with pytest.raises(UserError, match="start: name at least one address"):
        settings()


def test_the_documentation_of_a_package_becomes_records(tmp_path) -> None:
    found = scraped(tmp_path, "pydoc:requests", "pydoc:bs4")
    records = {fetch.url: fetch.record for fetch in found if fetch.record}
    sessions = records["http://pydoc.localhost/requests/requests.sessions.html"]
    assert sessions.facts["site"] == "pydoc:requests"
    assert "Provides cookie persistence, connection-pooling, and configuration." in sessions.text
    assert (
        "  >>> with requests.Session() as s:\n  ...     s.get('https://httpbin.org/get')\n" in sessions.text
    )  # as it is indented in its docstring
    assert "http://pydoc.localhost/bs4/bs4.element.html" in records
    everything = "".join(record.text for record in records.values())
    for part in (sys.prefix, sys.base_prefix, " at 0x", "\u00a0", "127.0.0.1:"):
        assert part not in everything


def test_two_scrapes_from_nothing_give_the_same_records_but_for_their_date(tmp_path) -> None:
    first, second = (scraped(tmp_path / name, "pydoc:urllib3") for name in "ab")
    assert [(fetch.url, fetch.state, fetch.reason) for fetch in first] == [
        (fetch.url, fetch.state, fetch.reason) for fetch in second
    ]
    assert [fetch.record and fetch.record.body for fetch in first] == [fetch.record and fetch.record.body for fetch in second]


def test_a_scrape_repeated_receives_no_page_twice_and_gives_the_same_records(tmp_path) -> None:
    first, second = (scraped(tmp_path, "pydoc:bs4") for _ in "ab")
    assert {fetch.status for fetch in second if fetch.record} == {304}
    assert [fetch.record for fetch in first] == [fetch.record for fetch in second]


def test_a_module_that_acts_is_refused_by_the_site_itself(tmp_path) -> None:
    fetches = {}
    for fetch in registry.load_domain("text", "scrape", interfaces.Scraping).fetch(
        config.parse(
            Settings,
            section_of([site("pydoc:stdlib", include=["/(this|antigravity|abc).html"])]),
            "x",
        ),
        tmp_path,
        Progress("scrape", "addresses", None),
    ):
        fetches[fetch.url] = (fetch.state, fetch.reason)
    assert fetches["http://pydoc.localhost/stdlib/this.html"] == ("refused", "robots")
    assert fetches["http://pydoc.localhost/stdlib/abc.html"] == ("record", "")
    assert [url for url, fate in fetches.items() if fate[0] == "record" and not re.search(r"abc.html$", url)] == []
