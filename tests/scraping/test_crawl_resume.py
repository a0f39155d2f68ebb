import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

PAGES = 40


def site(web) -> None:
    for number in range(PAGES):
        links = (*(f"/{(number * factor + 1) % PAGES}" for factor in (2, 3)), "/missing")
        web.html(f"/{number}", f"page {number} " * 20, links)
    web.html("/", "start", ("/0",))


def run(web, state: Path) -> subprocess.Popen:
    program = Path(__file__).with_name("crawl_to_kill.py")
    return subprocess.Popen([sys.executable, program, f"{web.url}/", state], stdout=subprocess.PIPE, text=True)


def fates(process: subprocess.Popen) -> list:
    out, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines() if line.startswith("[")]


def test_a_crawl_killed_again_and_again_finds_what_an_undisturbed_one_finds(web, tmp_path) -> None:
    site(web)
    undisturbed = fates(run(web, tmp_path / "a"))
    assert len(undisturbed) == PAGES + 2
    web.asked.clear()
    chance = random.Random(7)
    for _ in range(4):
        process = run(web, tmp_path / "b")
        for _ in range(chance.randrange(2, 12)):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert fates(run(web, tmp_path / "b")) == undisturbed
    asked = Counter(path for path in web.asked if path not in ("/robots.txt", "/sitemap.xml"))
    assert set(asked) == {"/", "/missing", *(f"/{number}" for number in range(PAGES))}
    assert sum(asked.values()) <= PAGES + 2 + 4  # at most the page under way is asked for again, once a kill


def test_a_crawl_killed_within_a_page_asks_for_that_page_alone_again(web, tmp_path) -> None:
    site(web)
    reached, let_go = threading.Event(), threading.Event()

    def hangs(handler) -> None:
        reached.set()
        let_go.wait(30)
        handler.close_connection = True

    page, web.pages["/7"] = web.pages["/7"], hangs
    process = run(web, tmp_path / "state")
    assert reached.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    let_go.set()
    web.pages["/7"] = page
    found = fates(run(web, tmp_path / "state"))
    assert len(found) == PAGES + 2
    assert {path: count for path, count in Counter(web.asked).items() if count > 1 and path != "/robots.txt"} == {"/7": 2}


def test_other_settings_begin_a_new_crawl(web, crawling) -> None:
    web.html("/", "start", ("/a",))
    web.html("/a")
    assert len(crawling(max_pages=1)) == 2
    assert crawling(max_pages=2)["/a"].state == "record"
