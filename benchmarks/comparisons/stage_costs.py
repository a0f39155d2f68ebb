"""A folder of records in; out, what filter, dedupe and tokenize cost on it and hold in memory, each run as the command line runs it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from provenlm.core import audit, config, records
from provenlm.core.paths import Layout

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("filter", "dedupe", "tokenize")


@dataclass(frozen=True)
class Cost:
    """Of one process: its CPU seconds, start included, and its largest resident set in bytes, as the kernel tells both."""

    cpu: float
    peak: int


def project(folder: Path) -> Layout:
    """A project at `folder` whose only corpus, `python_docs`, has the default settings; its records go to `layout.corpus(…)`."""
    layout = Layout(folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpora = config.load(ROOT / "params.yaml").row("corpora", "python_docs")
    layout.params.write_text(json.dumps({"corpora": {"python_docs": corpora}, "recipes": {}, "reports": {}}), encoding="utf-8")
    return layout


def costs(layout: Layout) -> dict[str, Cost]:
    """Run the three stages over the scraped records of the project."""
    scraped = layout.corpus("python_docs", "scraped")
    said, count = audit.Recorder(), records.count(scraped)
    size = sum(len(item.body) for item in records.read(scraped))
    for name, value in (
        ("records", count),
        ("addresses", count),
        ("refused", 0),
        ("failed", 0),
        ("bytes_received", size),
        ("bytes", size),
    ):
        said.counted(name, value, "", name)
    audit.write(layout.audit("python_docs", "scrape"), audit.Audit("python_docs", "scrape", said.figures, [], [], {}))
    return {stage: run(stage, layout) for stage in STAGES}


def run(stage: str, layout: Layout) -> Cost:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{stage}", "python_docs"]
    process = subprocess.Popen(command, cwd=layout.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    error = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage}: {error.decode(errors='replace')[-1000:]}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
