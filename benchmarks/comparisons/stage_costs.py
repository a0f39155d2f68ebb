"""Measure CPU time and memory of filter, dedupe and tokenize, each in a process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from provenlm.core import audit, config, records
from provenlm.core.paths import ProjectPaths

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("filter", "dedupe", "tokenize")


@dataclass(frozen=True)
class StageCost:
    """Hold the CPU seconds of a stage's process, its start included, and its peak resident set size from its audit."""

    cpu_seconds: float
    peak_bytes: int


def make_project(folder: Path) -> ProjectPaths:
    """Make a project with only the corpus `python_docs`, with params.yaml's settings."""
    paths = ProjectPaths(folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpora = config.load_params(ROOT / "params.yaml").entry("corpora", "python_docs")
    paths.params_yaml.write_text(json.dumps({"corpora": {"python_docs": corpora}, "recipes": {}, "reports": {}}), encoding="utf-8")
    return paths


def stage_costs(paths: ProjectPaths) -> dict[str, StageCost]:
    """Run the three stages on the scraped records of the project."""
    scraped = paths.corpus_dir("python_docs", "scraped")
    recorder, num_records = audit.MetricRecorder(), records.count_records(scraped)
    num_bytes = sum(len(item.content) for item in records.read_records(scraped))
    for name, value in (
        ("records", num_records),
        ("urls.seen", num_records),
        ("urls.skipped", 0),
        ("urls.failed", 0),
        ("download.bytes", num_bytes),
        ("bytes", num_bytes),
    ):
        recorder.add_count(name, value, "", name)
    audit.write_audit(paths.audit_json("python_docs", "scrape"), audit.Audit("python_docs", "scrape", recorder.metrics, [], [], {}))
    return {stage: run_stage(stage, paths) for stage in STAGES}


def run_stage(stage: str, paths: ProjectPaths) -> StageCost:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{stage}", "python_docs"]
    process = subprocess.Popen(command, cwd=paths.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage}: {error.decode(errors='replace')[-1000:]}")
    peak = audit.read_audit(paths.audit_json("python_docs", stage)).metrics["peak_memory"].value
    assert isinstance(peak, int)
    return StageCost(usage.ru_utime + usage.ru_stime, peak)
