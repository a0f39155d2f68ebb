import random

import pytest

from provenlm.scraping.crawl.urls import CrawlLimits, Seed, link_normalizer, match_seed, normalize_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("http://example.org:80/a", "http://example.org/a"),
        ("https://example.org:443/a", "https://example.org/a"),
        ("https://example.org:80/a", "https://example.org:80/a"),
        ("http://example.org/a/./b/../c#part", "http://example.org/a/c"),
        ("http://example.org/../../a", "http://example.org/a"),
        ("http://example.org/a/..", "http://example.org/"),
        ("http://example.org/a/b/.", "http://example.org/a/b/"),
        ("http://example.org/%7euser/%c3%a9", "http://example.org/~user/%C3%A9"),
        ("http://example.org/é b", "http://example.org/%C3%A9%20b"),
        ("http://example.org/?b=2&a=1", "http://example.org/?b=2&a=1"),
        ("http://exämple.org/", "http://xn--exmple-cua.org/"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://example.org./x", "http://example.org/x"),
    ],
)
def test_a_url_has_one_normal_form(url: str, expected: str) -> None:
    assert normalize_url(url) == expected
    assert normalize_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "javascript:void(0)",
        "mailto:a@b.c",
        "http://",
        "http://user:word@example.org/",
        "http://[::1",
        "http://a:99999/",
    ],
)
def test_urls_that_are_not_crawled_have_no_normal_form(url: str) -> None:
    assert normalize_url(url) is None


def test_a_relative_url_is_resolved_against_its_page() -> None:
    assert normalize_url("../c?x#y", "http://example.org/a/b/d.html") == "http://example.org/a/c?x"


def _limits(**changed: object) -> CrawlLimits:
    return CrawlLimits(
        **(
            {"scope": "folder", "include": (), "exclude": (), "max_pages": 1, "max_bytes": 1, "max_depth": 9, "max_url_variants": 9}
            | changed
        )
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h/docs/a", ""),
        ("http://h/docs/", ""),
        ("http://h/blog/", "out-of-scope"),
        ("https://h/docs/a", "off-site"),
        ("http://h:81/docs/a", "off-site"),
        ("http://other/docs/a", "off-site"),
        ("http://h/docs/" + "a" * 3000, "url-length"),
        ("http://h/docs/old/a", "excluded"),
    ],
)
def test_urls_outside_the_limits_have_a_reason(url: str, reason: str) -> None:
    assert match_seed(url, [Seed("s", "http://h/docs/index.html", _limits(exclude=("/old/",)))])[1] == reason


def test_an_include_pattern_does_not_exclude_the_start_url() -> None:
    site = Seed("s", "http://h/", _limits(include=(r"\.md$",)))
    assert match_seed("http://h/", [site]) == ("s", "")
    assert match_seed("http://h/a.md", [site]) == ("s", "")
    assert match_seed("http://h/a.html", [site]) == ("s", "not-included")


def test_the_host_scope_includes_other_folders() -> None:
    assert match_seed("http://h/blog/", [Seed("s", "http://h/docs/", _limits(scope="host"))]) == ("s", "")


def test_an_invalid_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="must be regular expressions"):
        _limits(exclude=("(",))


def test_a_url_on_a_shared_host_belongs_to_the_seed_of_its_folder() -> None:
    sites = [Seed(name, f"http://h/{name}/", _limits(scope="host")) for name in "ab"]
    assert [match_seed(f"http://h/{path}", sites)[0] for path in ("a/x", "b/x", "c")] == ["a", "b", "a"]


def test_the_fast_path_for_links_agrees_with_normalize_url() -> None:
    rng = random.Random(0)
    parts = ["a", "b.html", "..", ".", "", "c-d", "_x", "é", "a b", "%41", "x;sid=1", "?q", "#f", "http:", "h:80"]
    absolute_urls = [
        "https://example.org/x/",
        "http://h",
        "https://H.org/a",
        "http://1.2.3.4/a",
        "http://a..b/",
        "http://xn--a/",
        "//h/a",
    ]
    for base in ("http://h/", "http://h:8080/a/b.html", "https://h/a//b/c", "http://h/a/b/?q=1"):
        normalize = link_normalizer(base)
        for _ in range(3000):
            link = "/".join([*rng.choices([*absolute_urls, *parts], k=1), *rng.choices(parts, k=rng.randint(0, 4))])
            assert normalize(link) == normalize_url(link, base), (base, link)
