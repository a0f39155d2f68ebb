"""Test that filter, dedupe and tokenize write the same bytes in this process and on Daft."""

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
    """Write pages of pydoc: some twice, some with one more line, one too short, one with an e-mail address."""
    modules = ("json", "textwrap", "string", "shlex", "csv", "glob", "heapq", "bisect", "copy", "stat")
    texts = [pydoc.plain(pydoc.render_doc(name, renderer=pydoc.plaintext)) for name in modules]
    texts += [text.replace("\n", "\n\n") for text in texts[:2]] + [text + "\none line more" for text in texts[2:4]] + ["short"]
    project.write_scraped(
        [
            Record.from_content(text.encode(), "text/plain", f"pydoc/{i}")
            for i, text in enumerate([*texts, texts[5] + " a@mail.org"])
        ]
    )
    return project


def run_with_executor(project, executor: str | None, run: Callable[[str], object]) -> dict[str, bytes]:
    """Run the three stages and return every file that they write."""
    paragraph_dedup = {"min_bytes": 60, "min_documents": 2, "within_document": "remove", "across_documents": "remove"}
    pii = {"email": "mask", "ip": "mask", "phone": "mask", "secret": "drop"}
    quality_rules = {"apply_to": [], "gopher": {}, "gopher_repetition": {}, "c4": {}, "fineweb": {}}
    filter_section = project.sections["filter"] | {"pii": pii, "quality_rules": quality_rules}
    project.write_params(
        filter=filter_section,
        dedupe={"jaccard_threshold": 0.7, "ngram_words": 3, "ngram_chars": 5, "paragraph_dedup": paragraph_dedup},
        executor=executor,
    )
    for name in ("filter", "dedupe", "tokenize"):
        run(name)
    folders = [project.paths.corpus_dir("c", step) for step in STEPS]
    audits = {p.relative_to(f.parent).as_posix(): p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}
    for folder in folders:
        shutil.rmtree(folder)
    return audits


def test_daft_on_this_machine_writes_the_same_files(scraped):
    local = run_with_executor(scraped, None, scraped.run)
    assert len(local) > 8
    assert run_with_executor(scraped, "daft", scraped.run) == local


@pytest.mark.slow  # starts a cluster of two workers and one client per stage: about a minute
def test_daft_on_a_cluster_of_two_workers_writes_the_same_files(scraped):
    pytest.importorskip("ray", reason="needs the extra [scale]")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    port = 25000 + os.getpid() % 7000  # Ray's clients use ports from 23000 on, the kernel's ephemeral ports start at 32768

    def ray(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def stage(name: str) -> None:
        command = [sys.executable, "-m", f"stages.{name}", "c"]
        subprocess.run(command, env=environment, check=True, cwd=scraped.paths.root, timeout=240)

    local = run_with_executor(scraped, None, scraped.run)
    head = ["--head", "--port", str(port), "--ray-client-server-port", str(port + 1), "--include-dashboard", "false"]
    workers = [ray(*head)]
    try:
        wait_for(port + 1)
        workers.append(ray("--address", f"127.0.0.1:{port}"))
        remote = run_with_executor(scraped, f"ray://127.0.0.1:{port + 1}", stage)
    finally:
        for worker in reversed(workers):
            worker.terminate()
            worker.wait(60)
    assert remote == local


def wait_for(port: int) -> None:
    """Wait until a process listens on `port`, at most two minutes."""
    until = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, f"nothing listens on {port}"
            time.sleep(0.5)
