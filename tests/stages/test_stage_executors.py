"""The same records through filter, dedupe and tokenize in this process and on Daft: the same bytes on disk."""

import os
import pydoc
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from provenlm.core.records import Record

pytest.importorskip("daft", reason="needs the extra [scale]")
ROOT = Path(__file__).resolve().parents[2]
STEPS = ("filtered", "deduped", "tokens")


@pytest.fixture
def scraped(project):
    """Pages of pydoc, some of them twice, some with a line more, one too short and one with an address in it."""
    modules = ("json", "textwrap", "string", "shlex", "csv", "glob", "heapq", "bisect", "copy", "stat")
    texts = [pydoc.plain(pydoc.render_doc(name, renderer=pydoc.plaintext)) for name in modules]
    texts += [text.replace("\n", "\n\n") for text in texts[:2]] + [text + "\none line more" for text in texts[2:4]] + ["short"]
    project.scraped(
        [
            Record.from_content(text.encode(), "text/plain", f"pydoc/{i}")
            for i, text in enumerate([*texts, texts[5] + " a@mail.org"])
        ]
    )
    return project


def build_with_engine(project, engine: str | None, run: Callable[[str], object]) -> dict[str, bytes]:
    """Every file that the three stages write."""
    blocks = {"bytes": 60, "records": 2, "inside": "remove", "across": "remove"}
    private = {"email": "mask", "ip": "mask", "phone": "mask", "secret": "drop"}
    sets = {"of": [], "gopher": {}, "gopher_repetition": {}, "c4": {}, "fineweb": {}}
    filtering = project.sections["filter"] | {"private": private, "rule_sets": sets}
    project.params(filter=filtering, dedupe={"near": 0.7, "words": 3, "characters": 5, "blocks": blocks}, engine=engine)
    for name in ("filter", "dedupe", "tokenize"):
        run(name)
    folders = [project.layout.corpus("c", step) for step in STEPS]
    audits = {p.relative_to(f.parent).as_posix(): p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}
    for folder in folders:
        shutil.rmtree(folder)
    return audits


def test_daft_on_this_machine_leaves_the_same_files(scraped):
    local = build_with_engine(scraped, None, scraped.run)
    assert len(local) > 8
    assert build_with_engine(scraped, "daft", scraped.run) == local


@pytest.mark.slow  # starts a cluster of two workers and a client of it for each stage, which takes a minute
def test_daft_on_a_cluster_of_two_workers_leaves_the_same_files(scraped):
    pytest.importorskip("ray", reason="needs the extra [scale]")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    port = 25000 + os.getpid() % 7000  # Ray's own clients have those from 23000, the kernel gives away those from 32768

    def ray(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def stage(name: str) -> None:
        command = [sys.executable, "-m", f"stages.{name}", "c"]
        subprocess.run(command, env=environment, check=True, cwd=scraped.layout.root, timeout=240)

    local = build_with_engine(scraped, None, scraped.run)
    head = ["--head", "--port", str(port), "--ray-client-server-port", str(port + 1), "--include-dashboard", "false"]
    workers = [ray(*head)]
    try:
        wait_for(port + 1)
        workers.append(ray("--address", f"127.0.0.1:{port}"))
        remote = build_with_engine(scraped, f"ray://127.0.0.1:{port + 1}", stage)
    finally:
        for worker in reversed(workers):
            worker.terminate()
            worker.wait(60)
    assert remote == local


def wait_for(port: int) -> None:
    """Until something listens on `port`, two minutes at most."""
    until = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, f"nothing listens on {port}"
            time.sleep(0.5)
