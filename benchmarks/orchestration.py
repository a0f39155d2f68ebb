"""Nothing in; out, what DVC, Prefect and we add to stages that do nothing, and what a record costs each stage of a corpus.

The pipeline is that of tests/flows/project: seven stages, or with more rows a multiple of them. CPU seconds are those of a command and
all that it started, by the kernel; on a busy machine only they compare.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from comparisons import synthetic_corpus as texts
from ruamel.yaml import YAML

from provenlm.core import config as parameters

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("scrape", "filter", "dedupe", "tokenize", "train", "validate", "report")
STAGES = len(KINDS)


class Tiny:
    """A copy of the pipeline of nothing, with `rows` corpora, recipes and reports."""

    def __init__(self, root: Path, rows: int) -> None:
        self.root = root
        shutil.copytree(ROOT / "tests/flows/project", root, ignore=shutil.ignore_patterns("__pycache__"))
        known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**known, "PATH": path, "PYTHONPATH": str(ROOT), "PREFECT_SERVER_API_PORT": "9", "DVC_NO_ANALYTICS": "1"}
        self._multiply(rows)
        self.run("dvc", "init", "--no-scm", "--quiet")

    def _multiply(self, rows: int) -> None:
        params = YAML(typ="safe").load(self.root / "params.yaml")
        for number in range(1, rows):
            for table, name, uses in (("corpora", "words", {}), ("recipes", "small", {"corpus": f"words{number}"}),
                                      ("reports", "proof", {"corpora": [f"words{number}"], "recipes": [f"small{number}"]})):  # fmt: skip
                params[table][f"{name}{number}"] = {**params[table][name], **uses}
        YAML().dump(params, self.root / "params.yaml")

    def run(self, module: str, *words: str, **environment: str) -> tuple[float, float]:
        """CPU and wall seconds of `python -m MODULE WORDS`. RuntimeError with its last line if it fails."""
        before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{module} {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall

    def change(self) -> None:
        """Nothing that was built stands any longer, nor can it be taken from DVC's memory of runs."""
        params = YAML(typ="safe").load(self.root / "params.yaml")
        for row in (*params["corpora"].values(), *params["recipes"].values()):
            for stage in set(KINDS) & set(row):
                row[stage]["turn"] = time.time()
        for row in params["reports"].values():
            row["title"] = str(time.time())
        YAML().dump(params, self.root / "params.yaml")


def best(times: int, what: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The run that took the least CPU."""
    return min(what() for _ in range(times))


def show(title: str, found: tuple[float, float], promised: str = "") -> None:
    print(f"  {title:<62}{found[0]:8.2f}{found[1]:8.2f}  {promised}", flush=True)


def overheads(folder: Path, times: int) -> None:
    """DVC alone, then our builds with a server of their own."""
    print(f"\n{'':64}{'CPU s':>8}{'wall s':>8}  promised")
    for rows in (1, 4, 12):
        nothing_to_do(Tiny(folder / f"rows{rows}", rows), rows * STAGES, times)
    tiny = Tiny(folder / "build", 1)
    own = {"PREFECT_HOME": str(folder / "prefect")}
    tiny.run("dvc", "repro", "--quiet")
    show("build, all cached, own server, its first start", tiny.run("flows.build", **own), "15 s")
    show("build, all cached, own server", best(times, lambda: tiny.run("flows.build", **own)), "8 s")


def nothing_to_do(tiny: Tiny, stages: int, times: int) -> None:
    """DVC once it has built all of `tiny`."""
    tiny.run("dvc", "repro", "--quiet")
    show(f"`dvc repro`, {stages} stages, nothing to do", best(times, lambda: tiny.run("dvc", "repro", "--quiet")), "3 s")
    if stages == STAGES:
        one = best(times, lambda: tiny.run("dvc", "repro", "--quiet", "--single-item", "train@small"))
        show("`dvc repro --single-item`, nothing to do", one)


def added(folder: Path, times: int) -> None:
    """What a stage costs beside its own work, and a run on a pool before its first line: with a server that is there already."""
    tiny = Tiny(folder / "served", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    api, home = f"http://127.0.0.1:{port}/api", str(folder / "prefect")
    environment = {**tiny.environment, "PREFECT_SERVER_API_PORT": port, "PREFECT_HOME": home}
    log = (folder / "log").open("w")
    command = [sys.executable, "-m", "flows.serve", "--pool", "here", "--port", port]
    server = subprocess.Popen(command, cwd=tiny.root, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    environment["PREFECT_API_URL"] = api
    worker = None
    try:
        assert server.stdout is not None
        server.stdout.readline()
        use = {"PREFECT_API_URL": api, "PREFECT_HOME": home}
        tiny.run("flows.build", **use)
        cached = best(times, lambda: tiny.run("flows.build", **use))
        show("build, all cached, a server that runs", cached)
        alone = [0.0, 0.0]
        for stage, table, subject in _stages():
            spent = best(times, partial(tiny.run, "stages.tiny", stage, table, subject))
            alone = [alone[0] + spent[0], alone[1] + spent[1]]

        def ran() -> tuple[float, float]:
            tiny.change()
            return tiny.run("flows.build", **use)

        whole = best(times, ran)
        each = tuple((w - c - a) / STAGES for w, c, a in zip(whole, cached, alone, strict=True))
        show("a stage that runs, beside its own work", (each[0], each[1]), "1 s")
        log.flush()
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "here"]
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        waits = [_begun(api) for _ in range(times + 1)][1:]
        print(f"  {'a run on a pool, from the order to its first line':<62}{'':8}{min(waits):8.2f}  ({max(waits):.2f} at most)")
    finally:
        for process in (worker, server):
            if process is not None:
                process.send_signal(signal.SIGINT)
                process.wait()


def _stages() -> list[tuple[str, str, str]]:
    corpus = [(stage, "corpora", "words") for stage in ("scrape", "filter", "dedupe", "tokenize")]
    return [*corpus, ("train", "recipes", "small"), ("validate", "recipes", "small"), ("report", "reports", "proof")]


def _begun(api: str) -> float:
    """Seconds from ordering a run to its start, as the server notes them."""
    found = _ask(f"{api}/deployments/filter", {"deployments": {"name": {"any_": ["health"]}}})[0]
    clock = time.time()
    run = _ask(f"{api}/deployments/{found['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
    while True:
        state = _ask(f"{api}/flow_runs/{run}")["state"]
        if state["type"] in ("RUNNING", "COMPLETED"):
            begun = time.time() - clock
        if state["type"] == "COMPLETED":
            return begun
        if state["type"] in ("FAILED", "CRASHED"):
            raise RuntimeError(f"health: {state['message']}")
        time.sleep(0.05)


def _ask(address: str, body: Mapping[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def records(folder: Path) -> None:
    """The stages of the default corpus on real text of two sizes, one core: CPU seconds to begin with, and what a record adds.

    Both sizes exceed what the codec learns from, which is part of the beginning. A first, small turn compiles.
    """
    known = parameters.load(ROOT / "params.yaml").row("corpora", "python_docs")
    source = {"kind": "jsonl", "files": ["rows.jsonl"], "text": "text", "source": None, "facts": [], "licence": None}
    scrape, tokenize = {**known["scrape"], "sources": [source]}, {**known["tokenize"], "sample_bytes": 2_000_000}
    params = {"corpora": {"c": {**known, "scrape": scrape, "tokenize": tokenize}}, "recipes": {}, "reports": {}}
    spent: dict[str, list[float]] = {stage: [] for stage in ("scrape", "filter", "dedupe", "tokenize")}
    counts = []
    for megabytes in (1, 4, 24):
        rows = list(texts.texts(megabytes * 10**6))
        root = folder / f"{megabytes} MB"
        root.mkdir()
        (root / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        (root / "params.yaml").write_text(json.dumps(params))
        counts.append(len(rows))
        for stage, found in spent.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", f"stages.{stage}", "c"]
            subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    _, few, many = counts
    print(f"\n  {f'a record of {24_000 / many:.1f} kB':<62}{'begins':>8}{'CPU ms':>8}{'MB/s':>8}")
    for stage, (_, less, more) in spent.items():
        each = (more - less) / (many - few)
        print(f"  {stage:<62}{less - few * each:8.2f}{1000 * each:8.2f}{20 / (more - less):8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="each is done so often, and the one that took the least CPU counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overheads(Path(folder), options.times)
        added(Path(folder), options.times)
        records(Path(folder))


if __name__ == "__main__":
    main()
