"""Measure what DVC, Prefect and our flows add to stages that do nothing.

Also measure what a record costs each corpus stage.

The pipeline is that of tests/flows/project: seven stages, or a multiple of them. CPU seconds are those of a command and its child
processes, from the kernel; on a busy machine only CPU seconds compare.
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

from comparisons import results
from comparisons.results import ResultRow
from comparisons.synthetic_corpus import local_texts
from ruamel.yaml import YAML

from provenlm.core import config
from provenlm.core.stages import CORPUS_STAGES, STAGES

ROOT = Path(__file__).resolve().parents[1]
Seconds = tuple[float, float]  # CPU and wall


class TinyProject:
    """Copy the pipeline of tiny stages, with a number of corpora, recipes and reports."""

    def __init__(self, root: Path, copies: int) -> None:
        self.root = root
        shutil.copytree(ROOT / "tests/flows/project", root, ignore=shutil.ignore_patterns("__pycache__"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "PYTHONPATH": str(ROOT), "PREFECT_SERVER_API_PORT": "9", "DVC_NO_ANALYTICS": "1"}
        self.environment = {**inherited, **settings}
        self._multiply(copies)
        self.dvc("init", "--no-scm", "--quiet")

    def _multiply(self, copies: int) -> None:
        params = YAML(typ="safe").load(self.root / "params.yaml")
        for n in range(1, copies):
            params["corpora"][f"words{n}"] = params["corpora"]["words"]
            params["recipes"][f"small{n}"] = {**params["recipes"]["small"], "corpus": f"words{n}"}
            params["reports"][f"proof{n}"] = {**params["reports"]["proof"], "corpora": [f"words{n}"], "recipes": [f"small{n}"]}
        YAML().dump(params, self.root / "params.yaml")

    def dvc(self, *arguments: str) -> Seconds:
        """Run DVC and return CPU and wall seconds."""
        return self.run("dvc", *arguments)

    def build(self, **environment: str) -> Seconds:
        """Run `provenlm build` and return CPU and wall seconds."""
        return self.run("provenlm.cli", "build", **environment)

    def run(self, module: str, *arguments: str, **environment: str) -> Seconds:
        """Run a module and return CPU and wall seconds.

        Raises RuntimeError with its output if it fails.
        """
        start, wall_start = _child_cpu_seconds(), time.perf_counter()
        completed = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            raise RuntimeError(f"{module} {' '.join(arguments)}: {(completed.stderr or completed.stdout).strip()}")
        return _child_cpu_seconds() - start, time.perf_counter() - wall_start

    def change(self) -> None:
        """Change a setting of every stage, so that no output is valid or in the run cache."""
        params = YAML(typ="safe").load(self.root / "params.yaml")
        for entry in (*params["corpora"].values(), *params["recipes"].values()):
            for stage in set(STAGES) & set(entry):
                entry[stage]["pause"] = time.time() % 1 / 1e6  # another value each time, and no real pause
        for entry in params["reports"].values():
            entry["title"] = str(time.time())
        YAML().dump(params, self.root / "params.yaml")


def _child_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def best(times: int, measurement: Callable[[], Seconds]) -> Seconds:
    """Return the run with the least CPU time."""
    return min(measurement() for _ in range(times))


def make_rows(name: str, seconds: Seconds) -> list[ResultRow]:
    """Print CPU and wall seconds and return them as rows of a result file."""
    print(f"  {name:<62}{seconds[0]:8.2f}{seconds[1]:8.2f}", flush=True)
    return [ResultRow(name, seconds[1], "s"), ResultRow(f"{name}, CPU", seconds[0], "CPU s")]


def measure_overheads(folder: Path, times: int, copies: tuple[int, ...]) -> list[ResultRow]:
    """Measure DVC alone, and builds that start their own server."""
    print(f"\n{'':64}{'CPU s':>8}{'wall s':>8}")
    rows = []
    for count in copies:
        project = TinyProject(folder / f"copies{count}", count)
        project.dvc("repro", "--quiet")
        seconds = best(times, partial(project.dvc, "repro", "--quiet"))
        rows += make_rows(f"`dvc repro`, {count * len(STAGES)} stages, all cached", seconds)
    project = TinyProject(folder / "build", 1)
    project.dvc("repro", "--quiet")
    seconds = best(times, partial(project.dvc, "repro", "--quiet", "--single-item", "train@small"))
    rows += make_rows("`dvc repro --single-item`, cached", seconds)
    prefect_home = {"PREFECT_HOME": str(folder / "prefect")}
    rows += make_rows("build, all cached, first start of its own server", project.build(**prefect_home))
    return rows + make_rows("build, all cached, its own server", best(times, partial(project.build, **prefect_home)))


def measure_stage_overhead(folder: Path, times: int) -> list[ResultRow]:
    """Measure the overhead of a stage and the start latency on a pool.

    A server is running meanwhile.
    """
    project = TinyProject(folder / "served", 1)
    port = _free_port()
    api, home = f"http://127.0.0.1:{port}/api", str(folder / "prefect")
    environment = {**project.environment, "PREFECT_SERVER_API_PORT": port, "PREFECT_HOME": home}
    log = (folder / "log").open("w")
    command = [sys.executable, "-m", "provenlm.cli", "serve", "--pool", "local", "--port", port]
    server = subprocess.Popen(command, cwd=project.root, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    environment["PREFECT_API_URL"] = api
    worker = None
    try:
        assert server.stdout is not None
        server.stdout.readline()
        build = partial(project.build, PREFECT_API_URL=api, PREFECT_HOME=home)
        build()
        cached = best(times, build)
        rows = make_rows("build, all cached, running server", cached)
        stages_alone = [best(times, partial(project.run, "stages.tiny", *arguments)) for arguments in _stage_arguments()]

        def changed_build() -> Seconds:
            project.change()
            return build()

        full_build = best(times, changed_build)
        overhead = [
            (full - base - sum(alone[i] for alone in stages_alone)) / len(STAGES)
            for i, (full, base) in enumerate(zip(full_build, cached, strict=True))
        ]
        rows += make_rows("overhead of a stage", (overhead[0], overhead[1]))
        log.flush()
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        latencies = [_start_latency(api) for _ in range(times + 1)][1:]
        print(f"  {'start latency of a run on a process pool':<62}{'':8}{min(latencies):8.2f}  (at most {max(latencies):.2f})")
        rows.append(ResultRow("start latency of a run on a process pool, minimum", min(latencies), "s"))
        return [*rows, ResultRow("start latency of a run on a process pool, maximum", max(latencies), "s")]
    finally:
        for process in (worker, server):
            if process is not None:
                process.send_signal(signal.SIGINT)
                process.wait()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _stage_arguments() -> list[tuple[str, str, str]]:
    corpus = [(stage, "corpora", "words") for stage in CORPUS_STAGES]
    return [*corpus, ("train", "recipes", "small"), ("validate", "recipes", "small"), ("report", "reports", "proof")]


def _start_latency(api: str) -> float:
    """Return the seconds from creating a run to its start, as the server reports them."""
    deployment = _call_api(f"{api}/deployments/filter", {"deployments": {"name": {"any_": ["status"]}}})[0]
    start = time.time()
    run = _call_api(f"{api}/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
    latency = 0.0
    while True:
        state = _call_api(f"{api}/flow_runs/{run}")["state"]
        if not latency and state["type"] in ("RUNNING", "COMPLETED"):
            latency = time.time() - start
        if state["type"] == "COMPLETED":
            return latency
        if state["type"] in ("FAILED", "CRASHED"):
            raise RuntimeError(f"status: {state['message']}")
        time.sleep(0.05)


def _call_api(url: str, payload: Mapping[str, Any] | None = None) -> Any:
    data = None if payload is None else json.dumps(payload).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        return json.load(response)


def measure_per_record(folder: Path, sizes: tuple[int, int, int]) -> list[ResultRow]:
    """Measure what a record costs each corpus stage on a core, from two run sizes.

    `sizes` are in megabytes. The first, small run compiles. Both others exceed the sample that the tokenizer is trained on, whose cost
    counts as startup.
    """
    section = config.load_params(ROOT / "params.yaml").entry("corpora", "python_docs")
    source = {"kind": "jsonl", "files": ["rows.jsonl"], "content": "text"}
    scrape, tokenize = {"sources": [source]}, {**section["tokenize"], "sample_bytes": 1_000_000 * sizes[1] // 2}
    params = {"corpora": {"c": {**section, "scrape": scrape, "tokenize": tokenize}}, "recipes": {}, "reports": {}}
    cpu_by_stage: dict[str, list[float]] = {stage: [] for stage in CORPUS_STAGES}
    counts = []
    for megabytes in sizes:
        texts = list(local_texts(megabytes * 10**6))
        root = folder / f"{megabytes} MB"
        root.mkdir()
        (root / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (root / "params.yaml").write_text(json.dumps(params))
        counts.append(len(texts))
        for stage, cpu_seconds in cpu_by_stage.items():
            start = _child_cpu_seconds()
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", f"stages.{stage}", "c"]
            subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)
            cpu_seconds.append(_child_cpu_seconds() - start)
    _, small_count, large_count = counts
    kilobytes = 1000 * sizes[2] / large_count
    print(f"\n  {f'a record of {kilobytes:.1f} kB':<62}{'startup':>8}{'CPU ms':>8}{'MB/s':>8}")
    rows = [ResultRow("mean size of a record", kilobytes, "kB")]
    for stage, (_, small_seconds, large_seconds) in cpu_by_stage.items():
        per_record = (large_seconds - small_seconds) / (large_count - small_count)
        startup, speed = small_seconds - small_count * per_record, (sizes[2] - sizes[1]) / (large_seconds - small_seconds)
        print(f"  {stage:<62}{startup:8.2f}{1000 * per_record:8.2f}{speed:8.1f}")
        rows.append(ResultRow(f"record: {stage}", 1000 * per_record, "CPU ms"))
        rows.append(ResultRow(f"startup: {stage}", startup, "CPU s"))
    return rows


def main() -> None:
    """Run all measurements and write benchmarks/results/orchestration.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "one repetition, at most 28 stages and 8 MB of text")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="repetitions, of which the best counts (default: 3)")
    options = parser.parse_args()
    times = 1 if options.quick else options.times
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_overheads(Path(folder), times, (1, 4) if options.quick else (1, 4, 12))
        rows += measure_stage_overhead(Path(folder), times)
        rows += measure_per_record(Path(folder), (1, 2, 8) if options.quick else (1, 4, 24))
    results.save_results("orchestration", rows, options)


if __name__ == "__main__":
    main()
