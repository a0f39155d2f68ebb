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
STAGE_NAMES = ("scrape", "filter", "dedupe", "tokenize", "train", "validate", "report")
NUM_STAGES = len(STAGE_NAMES)


class TinyProject:
    """A copy of the pipeline of nothing, with `rows` corpora, recipes and reports."""

    def __init__(self, root: Path, copies: int) -> None:
        self.root = root
        shutil.copytree(ROOT / "tests/flows/project", root, ignore=shutil.ignore_patterns("__pycache__"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **inherited,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "PREFECT_SERVER_API_PORT": "9",
            "DVC_NO_ANALYTICS": "1",
        }
        self._multiply(copies)
        self.run("dvc", "init", "--no-scm", "--quiet")

    def _multiply(self, copies: int) -> None:
        params = YAML(typ="safe").load(self.root / "params.yaml")
        for number in range(1, copies):
            for table, name, uses in (("corpora", "words", {}), ("recipes", "small", {"corpus": f"words{number}"}),
                                      ("reports", "proof", {"corpora": [f"words{number}"], "recipes": [f"small{number}"]})):  # fmt: skip
                params[table][f"{name}{number}"] = {**params[table][name], **uses}
        YAML().dump(params, self.root / "params.yaml")

    def run(self, module: str, *arguments: str, **environment: str) -> tuple[float, float]:
        """CPU and wall seconds of `python -m MODULE WORDS`. RuntimeError with its last line if it fails."""
        before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        completed = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
        if completed.returncode:
            raise RuntimeError(f"{module} {' '.join(arguments)}: {(completed.stderr or completed.stdout).strip()}")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall

    def change(self) -> None:
        """Nothing that was built stands any longer, nor can it be taken from DVC's memory of runs."""
        params = YAML(typ="safe").load(self.root / "params.yaml")
        for row in (*params["corpora"].values(), *params["recipes"].values()):
            for stage in set(STAGE_NAMES) & set(row):
                row[stage]["turn"] = time.time()
        for row in params["reports"].values():
            row["title"] = str(time.time())
        YAML().dump(params, self.root / "params.yaml")


def best(times: int, measurement: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The run that took the least CPU."""
    return min(measurement() for _ in range(times))


def print_row(title: str, seconds: tuple[float, float], target: str = "") -> None:
    print(f"  {title:<62}{seconds[0]:8.2f}{seconds[1]:8.2f}  {target}", flush=True)


def measure_overheads(folder: Path, times: int) -> None:
    """DVC alone, then our builds with a server of their own."""
    print(f"\n{'':64}{'CPU s':>8}{'wall s':>8}  promised")
    for copies in (1, 4, 12):
        measure_cached_repro(TinyProject(folder / f"rows{copies}", copies), copies * NUM_STAGES, times)
    tiny_project = TinyProject(folder / "build", 1)
    server_home = {"PREFECT_HOME": str(folder / "prefect")}
    tiny_project.run("dvc", "repro", "--quiet")
    print_row("build, all cached, own server, its first start", tiny_project.run("flows.build", **server_home), "15 s")
    print_row("build, all cached, own server", best(times, lambda: tiny_project.run("flows.build", **server_home)), "8 s")


def measure_cached_repro(tiny_project: TinyProject, stages: int, times: int) -> None:
    """DVC once it has built all of `tiny`."""
    tiny_project.run("dvc", "repro", "--quiet")
    print_row(
        f"`dvc repro`, {stages} stages, nothing to do", best(times, lambda: tiny_project.run("dvc", "repro", "--quiet")), "3 s"
    )
    if stages == NUM_STAGES:
        single_item = best(times, lambda: tiny_project.run("dvc", "repro", "--quiet", "--single-item", "train@small"))
        print_row("`dvc repro --single-item`, nothing to do", single_item)


def measure_stage_overhead(folder: Path, times: int) -> None:
    """What a stage costs beside its own work, and a run on a pool before its first line: with a server that is there already."""
    tiny_project = TinyProject(folder / "served", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    api, home = f"http://127.0.0.1:{port}/api", str(folder / "prefect")
    environment = {**tiny_project.environment, "PREFECT_SERVER_API_PORT": port, "PREFECT_HOME": home}
    log = (folder / "log").open("w")
    command = [sys.executable, "-m", "flows.serve", "--pool", "here", "--port", port]
    server = subprocess.Popen(command, cwd=tiny_project.root, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    environment["PREFECT_API_URL"] = api
    worker = None
    try:
        assert server.stdout is not None
        server.stdout.readline()
        server_settings = {"PREFECT_API_URL": api, "PREFECT_HOME": home}
        tiny_project.run("flows.build", **server_settings)
        cached = best(times, lambda: tiny_project.run("flows.build", **server_settings))
        print_row("build, all cached, a server that runs", cached)
        stages_alone = [0.0, 0.0]
        for stage, table, subject in _stage_arguments():
            stage_seconds = best(times, partial(tiny_project.run, "stages.tiny", stage, table, subject))
            stages_alone = [stages_alone[0] + stage_seconds[0], stages_alone[1] + stage_seconds[1]]

        def changed_build() -> tuple[float, float]:
            tiny_project.change()
            return tiny_project.run("flows.build", **server_settings)

        full_build = best(times, changed_build)
        per_stage = tuple((w - c - a) / NUM_STAGES for w, c, a in zip(full_build, cached, stages_alone, strict=True))
        print_row("a stage that runs, beside its own work", (per_stage[0], per_stage[1]), "1 s")
        log.flush()
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "here"]
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        waits = [_start_latency(api) for _ in range(times + 1)][1:]
        print(f"  {'a run on a pool, from the order to its first line':<62}{'':8}{min(waits):8.2f}  ({max(waits):.2f} at most)")
    finally:
        for process in (worker, server):
            if process is not None:
                process.send_signal(signal.SIGINT)
                process.wait()


def _stage_arguments() -> list[tuple[str, str, str]]:
    corpus = [(stage, "corpora", "words") for stage in ("scrape", "filter", "dedupe", "tokenize")]
    return [*corpus, ("train", "recipes", "small"), ("validate", "recipes", "small"), ("report", "reports", "proof")]


def _start_latency(api: str) -> float:
    """Seconds from ordering a run to its start, as the server notes them."""
    deployment = _call_api(f"{api}/deployments/filter", {"deployments": {"name": {"any_": ["health"]}}})[0]
    clock = time.time()
    run = _call_api(f"{api}/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
    while True:
        state = _call_api(f"{api}/flow_runs/{run}")["state"]
        if state["type"] in ("RUNNING", "COMPLETED"):
            latency = time.time() - clock
        if state["type"] == "COMPLETED":
            return latency
        if state["type"] in ("FAILED", "CRASHED"):
            raise RuntimeError(f"health: {state['message']}")
        time.sleep(0.05)


def _call_api(url: str, payload: Mapping[str, Any] | None = None) -> Any:
    data = None if payload is None else json.dumps(payload).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        return json.load(response)


def measure_per_record(folder: Path) -> None:
    """The stages of the default corpus on real text of two sizes, one core: CPU seconds to begin with, and what a record adds.

    Both sizes exceed what the codec learns from, which is part of the beginning. A first, small turn compiles.
    """
    corpus_section = parameters.load_params(ROOT / "params.yaml").entry("corpora", "python_docs")
    source = {"kind": "jsonl", "files": ["rows.jsonl"], "content": "text", "source": None, "metadata": [], "license": None}
    scrape, tokenize = {**corpus_section["scrape"], "sources": [source]}, {**corpus_section["tokenize"], "sample_bytes": 2_000_000}
    params = {"corpora": {"c": {**corpus_section, "scrape": scrape, "tokenize": tokenize}}, "recipes": {}, "reports": {}}
    cpu_by_stage: dict[str, list[float]] = {stage: [] for stage in ("scrape", "filter", "dedupe", "tokenize")}
    counts = []
    for megabytes in (1, 4, 24):
        rows = list(texts.local_texts(megabytes * 10**6))
        root = folder / f"{megabytes} MB"
        root.mkdir()
        (root / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        (root / "params.yaml").write_text(json.dumps(params))
        counts.append(len(rows))
        for stage, stage_seconds in cpu_by_stage.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", f"stages.{stage}", "c"]
            subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            stage_seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    _, small_count, large_count = counts
    print(f"\n  {f'a record of {24_000 / large_count:.1f} kB':<62}{'begins':>8}{'CPU ms':>8}{'MB/s':>8}")
    for stage, (_, small_seconds, large_seconds) in cpu_by_stage.items():
        per_record = (large_seconds - small_seconds) / (large_count - small_count)
        print(
            f"  {stage:<62}{small_seconds - small_count * per_record:8.2f}{1000 * per_record:8.2f}{20 / (large_seconds - small_seconds):8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="each is done so often, and the one that took the least CPU counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_overheads(Path(folder), options.times)
        measure_stage_overhead(Path(folder), options.times)
        measure_per_record(Path(folder))


if __name__ == "__main__":
    main()
