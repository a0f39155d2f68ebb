"""A folder of records in; out, what filter, dedupe and tokenize cost on it and hold in memory, each run as the command line runs it."""

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
    """Of one process: its CPU seconds, start included, and its largest resident set in bytes, as the kernel tells both."""

    cpu_seconds: float
    peak_bytes: int


def make_project(folder: Path) -> ProjectPaths:
    """A project at `folder` whose only corpus, `python_docs`, has the default settings; its records go to `layout.corpus(…)`."""
    layout = ProjectPaths(folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpora = config.load_params(ROOT / "params.yaml").entry("corpora", "python_docs")
    layout.params_yaml.write_text(json.dumps({"corpora": {"python_docs": corpora}, "recipes": {}, "reports": {}}), encoding="utf-8")
    return layout


def stage_costs(layout: ProjectPaths) -> dict[str, StageCost]:
    """Run the three stages over the scraped records of the project."""
    scraped = layout.corpus_dir("python_docs", "scraped")
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
    audit.write_audit(
        layout.audit_json("python_docs", "scrape"), audit.Audit("python_docs", "scrape", recorder.metrics, [], [], {})
    )
    return {stage: run_stage(stage, layout) for stage in STAGES}


def run_stage(stage: str, layout: ProjectPaths) -> StageCost:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{stage}", "python_docs"]
    process = subprocess.Popen(command, cwd=layout.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage}: {error.decode(errors='replace')[-1000:]}")
    return StageCost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
