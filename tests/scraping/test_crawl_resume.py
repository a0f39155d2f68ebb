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
    """Fill each host with pages that link to two others, to one on the next host and to a missing page."""
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
    """Check that a crawl killed at random moments gives the results of an undisturbed one, with few repeated requests."""
    fill_sites(webs, pages)
    undisturbed = read_outcomes(run(webs, tmp_path / "a"))
    assert len(undisturbed) == len(webs) * (pages + 3)
    assert sum(state == "record" for _, state, _, _ in undisturbed) == len(webs) * (pages + 2)
    for web in webs:
        web.requested_paths.clear()
    chance = random.Random(7)
    num_pages = len(webs) * pages
    for moment in sorted(chance.sample(range(1, num_pages), kills)):
        process = run(webs, tmp_path / "b")
        while sum(len(web.requested_paths) for web in webs) < moment and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert read_outcomes(run(webs, tmp_path / "b")) == undisturbed
    for web in webs:
        request_counts = Counter(path for path in web.requested_paths if path not in ("/robots.txt", "/sitemap.xml"))
        assert set(request_counts) == {"/", "/missing", "/far", *(f"/{number}" for number in range(pages))}
        assert sum(request_counts.values()) <= pages + 3 + kills  # each kill repeats at most the current page


def test_three_hosts_killed_three_times_give_the_same_results(webs, tmp_path) -> None:
    check_crawl_killed_repeatedly(webs, 66, 3, tmp_path)


@pytest.mark.slow  # two crawls of 10,000 pages
@pytest.mark.timeout(1800)
def test_10_000_pages_killed_ten_times_give_the_same_results(web, tmp_path) -> None:
    check_crawl_killed_repeatedly([web], 10_000, 10, tmp_path)


def test_after_a_kill_only_the_current_page_is_requested_again(web, tmp_path) -> None:
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
    assert {path: count for path, count in Counter(web.requested_paths).items() if count > 1 and path != "/robots.txt"} == {"/7": 2}


def test_another_config_begins_a_new_crawl(web, crawl_site) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a")
    assert len(crawl_site(max_pages=1)) == 2
    assert crawl_site(max_pages=2)["/a"].state == "record"
