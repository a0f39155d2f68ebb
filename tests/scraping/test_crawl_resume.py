import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fill_sites(webs: list, pages: int) -> None:
    """On each host `pages` pages that lead to two others and to one on the next host, and an address that is not there."""
    for index, web in enumerate(webs):
        next_web = webs[(index + 1) % len(webs)]
        for number in range(pages):
            links = (
                *(f"/{(2 * number + step) % pages}" for step in (1, 2)),
                "/missing",
                f"{next_web.url}/{number}",
                f"{next_web.url}/far",
            )
            web.html(f"/{number}", f"page {number} of {index} " * 20, links)
        web.html("/", f"start {index}", ("/0",))
        web.html("/far", f"only the neighbour knows this page of {index}")


def run(webs: list, state: Path) -> subprocess.Popen:
    program = Path(__file__).with_name("crawl_to_kill.py")
    command = [sys.executable, program, state, *(f"{web.url}/" for web in webs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def read_outcomes(process: subprocess.Popen) -> list:
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines() if line.startswith("[")]


def check_crawl_killed_repeatedly(webs: list, pages: int, kills: int, tmp_path: Path) -> None:
    """Crawl undisturbed; crawl again, killed so many times at random; the fates must be the same, and nearly no page asked for twice."""
    fill_sites(webs, pages)
    undisturbed = read_outcomes(run(webs, tmp_path / "a"))
    assert len(undisturbed) == len(webs) * (pages + 3)
    assert sum(state == "record" for _, state, _, _ in undisturbed) == len(webs) * (pages + 2)
    for web in webs:
        web.asked.clear()
    chance = random.Random(7)
    num_pages = len(webs) * pages
    for moment in sorted(chance.sample(range(1, num_pages), kills)):
        process = run(webs, tmp_path / "b")
        while sum(len(web.asked) for web in webs) < moment and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert read_outcomes(run(webs, tmp_path / "b")) == undisturbed
    for web in webs:
        request_counts = Counter(path for path in web.asked if path not in ("/robots.txt", "/sitemap.xml"))
        assert set(request_counts) == {"/", "/missing", "/far", *(f"/{number}" for number in range(pages))}
        assert sum(request_counts.values()) <= pages + 3 + kills  # at most the page under way is asked for again, once a kill


def test_a_crawl_of_three_hosts_killed_three_times_finds_what_an_undisturbed_one_finds(webs, tmp_path) -> None:
    check_crawl_killed_repeatedly(webs, 66, 3, tmp_path)


@pytest.mark.slow  # two crawls of 10,000 pages
@pytest.mark.timeout(1800)
def test_a_crawl_of_10_000_pages_killed_ten_times_finds_what_an_undisturbed_one_finds(web, tmp_path) -> None:
    check_crawl_killed_repeatedly([web], 10_000, 10, tmp_path)


def test_a_crawl_killed_within_a_page_asks_for_that_page_alone_again(web, tmp_path) -> None:
    fill_sites([web], 40)
    reached, let_go = threading.Event(), threading.Event()

    def hangs(handler) -> None:
        reached.set()
        let_go.wait(60)
        handler.close_connection = True

    page, web.pages["/7"] = web.pages["/7"], hangs
    process = run([web], tmp_path / "state")
    assert reached.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    let_go.set()
    web.pages["/7"] = page
    results = read_outcomes(run([web], tmp_path / "state"))
    assert len(results) == 40 + 3
    assert {path: count for path, count in Counter(web.asked).items() if count > 1 and path != "/robots.txt"} == {"/7": 2}


def test_other_settings_begin_a_new_crawl(web, crawling) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a")
    assert len(crawling(max_pages=1)) == 2
    assert crawling(max_pages=2)["/a"].state == "record"
