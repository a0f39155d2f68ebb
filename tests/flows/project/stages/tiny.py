"""Run any stage of a tiny pipeline: read params.yaml and a file, write a file and an audit.

Keys of a section: `fail` exits with this message, `signal` kills the process, `steps` of `pause` seconds make the stage long (when
interrupted it saves its count), `meet` waits for the same stage of another subject, `alone` fails beside any other such stage.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from provenlm.core import records
from provenlm.core.audit import Audit, Metric, write_audit
from provenlm.core.progress import log_line, progress_bar

READS = {"filter": "scraped", "dedupe": "filtered", "tokenize": "deduped"}
WRITES = {"scrape": "scraped", "filter": "filtered", "dedupe": "deduped", "tokenize": "tokens"}


def main(stage: str, table: str, subject: str) -> None:
    row = YAML(typ="safe").load(Path("params.yaml"))[table][subject]
    section = row.get(stage, {})
    signals: list[int] = []
    if "steps" in section:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: signals.append(number))
    log_line(f"{stage} begins")
    if "meet" in section:
        meet(subject, section["meet"])
    if section.get("alone"):
        Path("models/.alone").mkdir(parents=True)  # fails if another stage runs
        time.sleep(0.5)
        Path("models/.alone").rmdir()
    if "fail" in section:
        sys.exit(f"{stage}@{subject}: {section['fail']}")
    if "signal" in section:
        os.kill(os.getpid(), section["signal"])
    steps = walk(subject, section.get("steps", 0), section.get("pause", 0), signals)
    metrics = {"steps": Metric(steps, "steps", "number of steps of the stage", "counted")}
    write_audit(Path("reports/audits") / subject / f"{stage}.json", Audit(subject, stage, metrics, [], [], {}))
    if stage == "scrape":
        records.write_records(world(section), Path("data") / subject / WRITES[stage])
    elif stage in WRITES:
        read = [(r.source, r.id) for r in records.read_records(Path("data") / subject / "scraped")] if stage == "filter" else []
        write(Path("data") / subject / WRITES[stage] / "all.json", {**section, "read": read} if read else section)
    elif stage == "train":
        write(Path("models") / subject / "model.json", steps)
    elif stage == "validate":
        write(Path("reports/samples") / f"{subject}.parquet", steps)
    else:
        status = "PASS" if row["checks"]["steps"] <= 3 else "FAIL"
        write(Path("reports") / f"{subject}.json", {"status": status, "checks": [{"status": status}]})
        write(Path("reports") / f"{subject}.html", status)
        write(Path("reports") / f"{subject}_files" / "loss.svg", "")
        Path(f"reports/{subject}.md").write_text(f"# {status}\n\n![loss]({subject}_files/loss.svg)\n")


def world(section: dict[str, str]) -> list[records.Record]:
    """Return the records of the file `world`, which maps source to text; without it, one record."""
    pages = json.loads(Path(section["world"]).read_text()) if "world" in section else {"a": "A"}
    return [records.Record.from_content(text.encode(), "text/plain", source) for source, text in sorted(pages.items())]


def meet(subject: str, partner: str) -> None:
    """Return when the same stage of `partner` runs too."""
    Path("data").mkdir(exist_ok=True)
    Path(f"data/.met-{subject}").touch()
    until = time.monotonic() + 60
    while not Path(f"data/.met-{partner}").exists():
        if time.monotonic() > until:
            sys.exit(f"{partner} did not start")
        time.sleep(0.05)


def walk(subject: str, steps: int, pause: float, signals: list[int]) -> int:
    """Count to `steps`; after a signal, save the count for the next run."""
    saved = Path("models/.resume") / f"{subject}.json"
    start = json.loads(saved.read_text()) if saved.exists() else 0
    if start:
        log_line(f"resumes at {start}")
    with progress_bar("counting", "steps", steps) as bar:
        for step in range(start, steps):
            time.sleep(pause)
            bar.update(postfix=f"at {step}")
            if signals:
                time.sleep(0.3)  # a checkpoint takes a while
                write(saved, step + 1)
                log_line(f"stopped at {step + 1}")
                sys.exit(128 + signals[0])
    saved.unlink(missing_ok=True)
    return steps


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    main(*sys.argv[1:])
