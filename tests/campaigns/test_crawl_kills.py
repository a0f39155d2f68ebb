"""Kill the scrape of a site with every misbehaviour at random moments, also between its last page and its audit."""

import gzip
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import forked
import pyarrow.parquet as pq
import pytest
from loopback_site import LoopbackSite, cut_off

from provenlm.core import hashing

NUM_KILLS = int(os.environ.get("PROVENLM_CRAWL_KILLS", "100"))
KILLS_PER_CRAWL = 4  # the last of them after the last page
NUM_PLAIN_PAGES = 30
PARAMS = """
corpora:
  site:
    domain: text
    scrape:
      sources:
        - {kind: site, start_urls: ["START/docs"], limits: {scope: host}, license: null}
      crawl_policy:
        user_agent_contact: "mailto:tests@example.org"
        download_delay_seconds: 0.0
        timeout_seconds: 5.0
        max_attempts: 2
        max_retry_after_seconds: 1.0
        max_response_bytes: 200000
        allowed_private_hosts: ["127.0.0.1"]
    filter: {}
    dedupe: {}
    tokenize: {}
recipes: {}
reports: {}
"""
CLOCK_COLUMNS = {"seconds", "fetched_at", "attempts"}
CLOCK_METRICS = {"seconds", "cpu_seconds", "peak_memory", "download.seconds", "requests", "retries"}


def walled(handler) -> None:
    """Redirect to the same address until the cookie comes back."""
    has_cookie = "seen=1" in handler.headers.get("Cookie", "")
    body = b"<p>behind the wall" if has_cookie else b""
    handler.send_response(200 if has_cookie else 302)
    for name, value in (("Location", "/walled"), ("Set-Cookie", "seen=1; Path=/"), ("Content-Type", "text/html")):
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def fill_site(web: LoopbackSite) -> None:
    """Lay out the pages; the misbehaving ones stand between plain ones."""
    html, text = {"Content-Type": "text/html"}, b"<p>text of a page " * 9
    odd_pages: dict[str, object] = {
        "/refresh": (200, html, b"<meta http-equiv=refresh content='0; url=/refreshed'>"),
        "/frames": (200, html, b"<frameset><frame src=/framed><iframe src=/framed2></frameset>"),
        "/walled": walled,
        "/loop": (302, {"Location": "/loop"}, b""),
        "/chain0": (301, {"Location": "/chain1"}, b""),
        "/chain1": (302, {"Location": "/chain0"}, b""),
        "/away": (302, {"Location": "http://127.0.0.1:9/"}, b""),
        "/nowhere": (302, {"Location": "http://[::1"}, b""),
        "/none": (200, {**html, "X-Robots-Tag": "none"}, text + b"<a href=/never>x</a>"),
        "/other-robot": (200, {**html, "X-Robots-Tag": "otherbot: noindex"}, text + b"other robot"),
        "/nofollow": (200, {**html, "X-Robots-Tag": "nofollow"}, text + b"nofollow<a href=/never>x</a>"),
        "/forbidden": (200, html, text),
        "/untyped": (200, {"Content-Type": ""}, text + b"untyped"),
        "/zip": (200, {"Content-Type": "application/octet-stream"}, b"PK\3\4" + b"\0" * 999),
        "/image": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
        "/large": (200, html, b"x" * 300_000),
        "/bomb": (200, {**html, "Content-Encoding": "gzip"}, gzip.compress(b"\0" * 5_000_000)),
        "/liar": (200, {**html, "Content-Encoding": "gzip"}, b"<p>not gzip"),
        "/cut": cut_off,
        "/gone": (410, {}, b""),
        "/broken": (500, {"Retry-After": "0"}, b""),
        "/empty": (200, html, b""),
        "/sjis": (200, {"Content-Type": "text/html; charset=shift_jis"}, "①㈱港の事務所".encode("cp932") * 9),
        "/feed": (200, {"Content-Type": "application/rss+xml"}, b"<rss><item><title>A & B</title><link>/fed</link></item>"),
    }
    web.pages |= odd_pages
    web.robots("User-agent: *\nDisallow: /forbidden\nSitemap: /list.txt\nSitemap: /lost.xml\n")
    web.pages["/list.txt"] = (200, {"Content-Type": "text/plain"}, f"{web.url}/listed\n".encode())
    web.pages["/sitemap.xml"] = (301, {"Location": "/index.xml"}, b"")
    web.pages["/index.xml"] = (200, {}, b"<sitemapindex><sitemap><loc>/part.xml</loc></sitemap></sitemapindex>")
    web.pages["/part.xml"] = (200, {}, b"<urlset><url><loc>/q?x=1&y=2</loc></url><url><loc>/mapped</loc></url><url><loc>/cu")
    web.pages["/docs"] = (301, {"Location": "/docs/"}, b"")
    web.html("/docs/", "start", ("/0", "/1", *odd_pages))
    for name in ("refreshed", "framed", "framed2", "listed", "mapped", "q?x=1&y=2", "fed"):
        web.html(f"/{name}")
    for number in range(NUM_PLAIN_PAGES):
        links = tuple(f"/{(2 * number + step) % NUM_PLAIN_PAGES}" for step in (1, 2))
        web.html(f"/{number}", f"plain page {number} " * 20, links, ETag=f'"{number}"')


def finish(process: forked.ForkedProcess) -> None:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def start(project: Path) -> forked.ForkedProcess:
    return forked.start_stage(project, "scrape", "site")


def new_project(folder: Path, web: LoopbackSite) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS.replace("START", web.url), encoding="utf-8")
    web.requested_paths.clear()
    return folder


def read_results(project: Path) -> tuple[str, list[dict[str, object]], dict[str, object]]:
    """Return the digest of the records, the outcomes of all URLs and the metrics, without what depends on the clock."""
    fetches = pq.read_table(project / "data/site/fetches/fetches.parquet")
    audit = json.loads((project / "reports/audits/site/scrape.json").read_text())
    metrics = {name: value for name, value in audit["metrics"].items() if name not in CLOCK_METRICS}
    rows = fetches.select([name for name in fetches.column_names if name not in CLOCK_COLUMNS]).to_pylist()
    return hashing.sha256_path(project / "data/site/scraped"), rows, metrics


def page_counts(web: LoopbackSite) -> Counter[str]:
    preludes = ("/robots.txt", "/sitemap.xml", "/index.xml", "/part.xml", "/list.txt", "/lost.xml")
    return Counter(path for path in web.requested_paths if path not in preludes)


def kill(process: forked.ForkedProcess) -> bool:
    """Kill a stage; return whether it was still running."""
    process.kill()
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


@pytest.fixture
def web() -> Iterator[LoopbackSite]:
    site = LoopbackSite()
    fill_site(site)
    yield site
    site.stop()


def crawl_with_kills(
    web: LoopbackSite, project: Path, chance: random.Random, num_requests: int, tail_seconds: float
) -> tuple[int, int]:
    """Scrape with kills; return their number while pages were fetched and after the last page."""
    kills_during = kills_after = 0
    for moment in sorted(chance.sample(range(1, num_requests), KILLS_PER_CRAWL - 1)):
        process = start(project)
        while len(web.requested_paths) < moment and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.01)
        kills_during += kill(process)
    process, num_before = start(project), -1
    while process.poll() is None and (num_before < num_requests or len(web.requested_paths) > num_before):
        num_before = len(web.requested_paths)
        time.sleep(0.02)
    time.sleep(chance.random() * tail_seconds)
    if process.poll() is None and kill(process):
        kills_after += 1
        finish(start(project))
    else:
        finish(process) if process.returncode is None else None
    return kills_during, kills_after


@pytest.mark.slow  # 130 runs of a stage
@pytest.mark.timeout(3600)
def test_a_crawl_killed_100_times_asks_no_page_twice_and_gives_the_same_records(web, tmp_path) -> None:
    forked.PRELOADED_MODULES += ["stages.scrape", "provenlm.domains.text.scrape.spec"]
    finish(start(new_project(tmp_path / "warm-up", web)))
    project = new_project(tmp_path / "undisturbed", web)
    process, last_request = start(project), time.monotonic()
    num_requests = 0
    while process.poll() is None:
        if len(web.requested_paths) > num_requests:
            num_requests, last_request = len(web.requested_paths), time.monotonic()
        time.sleep(0.001)
    tail_seconds = time.monotonic() - last_request
    finish(process)
    expected, expected_counts = read_results(project), page_counts(web)
    assert {row["reason"] for row in expected[1]} >= {
        "", "redirected", "redirect-loop", "redirect-off-site", "redirect-nowhere", "noindex", "robots", "content-type", "too-large", "decoding",
        "connection", "http-410", "http-500", "empty", "listing",
    }  # fmt: skip
    assert not {"/never", "/forbidden"} & expected_counts.keys()
    chance, kills, kills_after = random.Random(5), 0, 0
    while kills < NUM_KILLS:
        project = new_project(tmp_path / "killed", web)
        during, after = crawl_with_kills(web, project, chance, num_requests, tail_seconds)
        repeated = page_counts(web) - expected_counts
        assert sum(repeated.values()) <= 2 * during, repeated  # a page in flight may have been at its second attempt
        assert read_results(project) == expected
        assert not list(project.rglob(".tmp-*"))
        kills, kills_after = kills + during + after, kills_after + after
    print(f"{kills} kills, {kills_after} of them after the last page; tail {tail_seconds:.2f} s, {num_requests} requests")
    assert kills_after >= NUM_KILLS // KILLS_PER_CRAWL // 2
