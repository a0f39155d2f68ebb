import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from provenlm.core.errors import ProvenlmError
from provenlm.scraping.pydoc_site import modules, site

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "__init__.py": '"""A planted package."""',
    "good.py": '''
"""See planted.prints and planted._hidden."""
import os, sys
HERE = __file__
HOMES = {"b", "a", "c"}
NUMBER = 42
WHERE = os.environ

def made(value=object(), prefix=sys.prefix):
    """Make it.

        if value:
            return   None
    """

class Child(dict):
    """A child."""

    def own(self):
        """Its own."""
''',
    "prints.py": "print('hello')",
    "leaves.py": "raise SystemExit(3)",
    "connects.py": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "spawns.py": "import subprocess; subprocess.run(['true'])",
    "shells.py": "import os; os.system('true')",
    "writes.py": "open('/tmp/planted-by-a-test', 'w')",
    "needs.py": "import no_such_module_anywhere",
    "asks.py": "input()",
    "setup.py": "raise AssertionError",
    "_hidden.py": "raise AssertionError",
    "__main__.py": "raise AssertionError",
    "tests/__init__.py": "raise AssertionError",
    "test_it.py": "raise AssertionError",
}


def get(port: int, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("installed")
    for name, text in PLANTED.items():
        (folder / "planted" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "planted" / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-P", "-s", "-B", "-m", "provenlm.scraping.pydoc_site.server", "planted", "json"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "SECRET": "swordfish"},
    )
    yield json.loads(child.stdout.readline())["port"]
    child.stdin.close()
    assert child.wait(10) == 0  # it exits when the pipe of its parent closes


def test_the_sitemap_lists_documented_modules_only(port: int) -> None:
    module_names = re.findall(r"<loc>http://pydoc.localhost/planted/(.*?).html</loc>", get(port, "/sitemap.xml")[1])
    expected = ["asks", "connects", "good", "leaves", "needs", "prints", "shells", "spawns", "writes"]
    assert module_names == ["planted", *(f"planted.{name}" for name in expected)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("prints", "the module prints when it is imported"), ("leaves", "SystemExit: 3"), ("connects", "socket.getaddrinfo is forbidden here"),
        ("spawns", "subprocess.Popen is forbidden here"), ("shells", "os.system is forbidden here"),
        ("writes", "open is forbidden here"), ("needs", "No module named 'no_such_module_anywhere'"), ("asks", "EOFError"),
    ],
)  # fmt: skip
def test_a_module_with_side_effects_at_import_is_a_404(port: int, name: str, reason: str) -> None:
    status, body, _ = get(port, f"/planted/planted.{name}.html")
    assert status == 404
    assert reason in body
    assert not Path("/tmp/planted-by-a-test").exists()


def test_a_page_contains_no_details_of_the_machine(port: int) -> None:
    page = get(port, "/planted/planted.good.html")[1]
    assert "made" in page
    for part in ("0x", sys.prefix, sys.base_prefix, str(ROOT), "swordfish", "file:", "installed"):
        assert part not in page


def test_literals_show_their_value_and_other_data_their_type(port: int) -> None:
    page = get(port, "/planted/planted.good.html")[1]
    assert "<strong>NUMBER</strong> = 42" in page
    assert "<strong>HOMES</strong> = set" in page
    assert "<strong>WHERE</strong> = os._Environ" in page


def test_a_class_shows_only_the_members_it_defines(port: int) -> None:
    page = get(port, "/planted/planted.good.html")[1]
    assert "Its&nbsp;own." in page
    assert "inherited&nbsp;from" not in page
    assert "inherited from" not in page


def test_a_link_to_an_undocumented_module_is_text(port: int) -> None:
    page = get(port, "/planted/planted.good.html")[1]
    assert 'href="/planted/planted.html"' in page
    assert "os.html" not in page
    assert "builtins.html" not in page


def test_an_unchanged_page_is_answered_with_304(port: int) -> None:
    _, _, headers = get(port, "/json/json.html")
    assert get(port, "/json/json.html", **{"If-None-Match": headers["ETag"]})[0] == 304
    assert get(port, "/json/json.html", **{"If-Modified-Since": headers["Last-Modified"]})[0] == 304
    assert get(port, "/json/json.html", **{"If-None-Match": '"other"', "If-Modified-Since": headers["Last-Modified"]})[0] == 200


def test_unlisted_modules_are_not_imported_on_demand(port: int) -> None:
    assert get(port, "/planted/planted._hidden.html")[0] == 404
    assert get(port, "/../etc/passwd")[0] == 404


def test_robots_txt_forbids_modules_with_side_effects() -> None:
    with site.serve(["stdlib"]) as (_, port):
        robots = get(port, "/robots.txt")[1]
        index = get(port, "/stdlib/")[1]
    assert "Disallow: /stdlib/antigravity.html  # opens a browser" in robots
    assert "/stdlib/antigravity.html" in index
    assert "/stdlib/queue.html" in index


def test_the_stdlib_list_excludes_modules_with_side_effects() -> None:
    module_names = modules.list_modules("stdlib")
    assert {"queue", "json.decoder", "asyncio.tasks", "xml.dom.minidom"} <= set(module_names)
    assert len(module_names) > 400
    roots = {name.partition(".")[0] for name in module_names}
    assert not roots & set(modules.SIDE_EFFECT_MODULES)
    assert not [name for name in module_names if re.search(r"(^|\.)(_|tests?(\.|$))", name)]


def test_a_package_that_is_not_installed_is_reported() -> None:
    with (
        pytest.raises(ProvenlmError, match="start_urls: no package 'no_such_package' is installed"),
        site.serve(["no_such_package"]),
    ):
        pass


def test_two_servers_serve_the_same_bytes() -> None:
    def pages() -> dict[str, str]:
        with site.serve(["requests", "urllib3"]) as (_, port):
            paths = re.findall(r"<loc>http://pydoc.localhost(.*?)</loc>", get(port, "/sitemap.xml")[1])
            return {path: get(port, path)[1] for path in paths}

    first = pages()
    assert len(first) > 20
    assert pages() == first


def test_the_server_ends_with_the_block() -> None:
    with site.serve(["json"]) as (_, port):
        assert get(port, "/json/json.html")[0] == 200
    with pytest.raises(urllib.error.URLError):
        get(port, "/json/json.html")
