"""Test that the peak memory of the corpus stages does not grow with the corpus."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provenlm.core.audit import read_audit
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import Record

ROOT = Path(__file__).resolve().parents[2]
COUNT = 4000  # records of 5 kB in the small corpus; the large one has four times as many


def texts(count: int) -> Iterator[Record]:
    """Yield records; every tenth is a near-duplicate of the one before."""
    rng = random.Random(4)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randrange(3, 9))) for _ in range(5000)]
    words: list[str] = []
    for number in range(count):
        words = ["changed", *words[1:]] if number % 10 == 9 else rng.choices(vocabulary, k=800)
        body = "\n".join(" ".join(words[at : at + 12]) for at in range(0, len(words), 12)).encode()
        yield Record.from_content(body, "text/plain", f"s/{number}")


def peak(stage: str, root: Path) -> int:
    """Run a stage in a process; return its peak resident set size in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"stages.{stage}", "c"]
    subprocess.run(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, check=True)
    return read_audit(ProjectPaths(root).audit_json("c", stage)).metrics["peak_memory"].value


@pytest.mark.slow  # three stages on 100 MB: some minutes
@pytest.mark.timeout(1200)
def test_a_corpus_four_times_as_large_needs_at_most_1_5_times_the_memory(project):
    peaks = []
    for times in (1, 4):
        project.write_scraped(list(texts(times * COUNT)))
        peaks.append({stage: peak(stage, project.paths.root) for stage in ("filter", "dedupe", "tokenize")})
    assert {stage: peaks[1][stage] <= 1.5 * peaks[0][stage] for stage in peaks[0]} == dict.fromkeys(peaks[0], True), peaks
