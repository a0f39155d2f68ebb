"""Nothing in; out, CPU seconds, memory, recall and precision of filtering and deduplicating real text, beside datatrove and Daft.

A peer that is not installed (`pip install 'datatrove[io,processing]' orjson spacy daft ruamel.yaml numba`, in the environment of
`--python`) is left out with a line that says so. Ratios of CPU seconds are what counts: wall time on a busy machine is worth little.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from comparisons import stage_costs as chain
from comparisons.synthetic_corpus import Planted, build, grow

from provenlm.core import ngram_hashing, records
from provenlm.dedup import brute_force
from provenlm.domains.text.dedupe import spec as text

HERE = Path(__file__).resolve().parent
SHINGLES = text.shingles(text.Settings(0.7, 5, 5))
PIVOTS = 300  # removed records, and records with a planted copy, that are compared with all others
ROUNDS = 3
FILTERS = ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter")
FASTEST = "datatrove FineWebQualityFilter"


def measure(way: str, folder: Path, python: str) -> dict[str, Any] | None:
    """Run one way in a process of its own, a peer by the interpreter `python`; None, and a line, where the peer is not there."""
    package = way.split()[0]
    peer = package in ("datatrove", "daft")
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    if peer and subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        print(f"  {way}: left out, {package} is not installed", flush=True)
        return None
    command = [python if peer else sys.executable, "-m", "beside.ways", way, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {way}: failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def show(way: str, found: dict[str, Any], size: int, first: float, more: str = "") -> None:
    rate, peak = size / 1e6 / found["cpu"], found["peak"] / (1 << 20)
    print(f"  {way:34}{found['cpu']:9.1f}{rate:10.2f}{found['cpu'] / first:9.1f}{peak:9.0f}  {more}", flush=True)


def head(title: str) -> None:
    print(f"\n{title}\n  {'':34}{'CPU s':>9}{'MB/CPU s':>10}{'× CPU':>9}{'peak MiB':>9}", flush=True)


def quality(folder: Path, planted: Planted, kept: np.ndarray) -> str:
    """Recall on the planted copies, near ones by their exact similarity; precision on a sample of what was removed."""
    removed = np.flatnonzero(~kept).tolist()
    sample = random.Random(3).sample(removed, min(PIVOTS, len(removed)))
    wanted = {*sample, *(row for pair in planted.near for row in pair)}
    sets = {row: ngram_hashing.distinct(SHINGLES(item)) for row, item in enumerate(records.read(folder)) if row in wanted}
    pivots = {row: sets[row] for row in sample}
    members = ((row, ngram_hashing.distinct(SHINGLES(item))) for row, item in enumerate(records.read(folder)) if kept[row])
    right = {row for pair in brute_force.similar(members, pivots, 0.7) for row in pair if row in pivots}
    said = [f"exact {share(planted.exact, kept)}"]
    for low, high in ((0.9, 1.01), (0.8, 0.9), (0.7, 0.8)):
        pairs = [(a, b) for a, b in planted.near if low <= jaccard(sets[a], sets[b]) < high]
        said.append(f"J {low}-{min(high, 1.0)} {share(pairs, kept)}")
    return f"recall {', '.join(said)}; precision {len(right) / max(1, len(sample)):.4f} of {len(sample)}"


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)


def share(pairs: list[tuple[int, int]], kept: np.ndarray) -> str:
    return f"{sum(not (kept[a] and kept[b]) for a, b in pairs) / len(pairs):.4f} of {len(pairs)}" if pairs else "none"


def beside(root: Path, megabytes: int, sampled: int, python: str) -> None:
    """Both jobs on one corpus; datatrove's filters, being slow, on a part of it."""
    folder = root / "whole" / "records"
    planted = build(folder, megabytes * 10**6)
    head(
        f"near-duplicates: {planted.rows} texts, {planted.bytes / 1e6:.1f} MB, {len(planted.exact)} exact and {len(planted.near)} near copies planted"
    )
    first = None
    for way in ("dedupe", "daft dedupe", "datatrove dedupe"):
        if found := measure(way, folder, python):
            first = first or found["cpu"]
            show(way, found, planted.bytes, first, quality(folder, planted, np.load(folder.parent / f"{way}.npy")))
    filters(root / "part" / "records", sampled, python)


def filters(folder: Path, megabytes: int, python: str) -> None:
    """Ours and each of datatrove's, which may stop at the first rule that drops a text; then its fastest on texts that it reads whole."""
    small, peers = build(folder, megabytes * 10**6), [f"datatrove {name}" for name in FILTERS]
    said = "ours reads them, computes what all four need, and a score"
    in_turns(f"filters, {ROUNDS} rounds: {small.rows} texts; {said}", folder, ["filter", *peers], python)
    many = folder.parents[1] / "many" / "records"
    build(many, 10 * megabytes * 10**6)
    if measure(FASTEST, many, python):
        kept, whole = np.load(many.parent / f"{FASTEST}.npy"), folder.parents[1] / "whole texts" / "records"
        records.write((item for item, keep in zip(records.read(many), kept, strict=True) if keep), whole)
        in_turns("filters, on texts that datatrove's fastest keeps and so reads to the end", whole, ["filter", FASTEST], python)


def in_turns(title: str, folder: Path, ways: list[str], python: str) -> None:
    """Because what else the machine does changes what a CPU second is worth; medians."""
    size, turns = sum(len(item.body) for item in records.read(folder)), defaultdict[str, list[dict[str, Any]]](list)
    head(f"{title}: {size / 1e6:.1f} MB")
    for _ in range(ROUNDS):
        for way in ways:
            if found := measure(way, folder, python):
                turns[way].append(found)
    for way, those in turns.items():
        middle = {key: statistics.median(one[key] for one in those) for key in ("cpu", "peak")}
        ratio = statistics.median(one["cpu"] / ours["cpu"] for one, ours in zip(those, turns["filter"], strict=True))
        show(way, middle, size, middle["cpu"] / ratio)


def growth(root: Path, megabytes: int, plot: Path | None) -> None:
    """The cost of a record, and memory, at once, ten and a hundred times the size: the same texts, then with their words mixed."""
    base, tiny = root / "base" / "records", chain.project(root / "tiny")
    build(base, megabytes * 10**6)
    build(tiny.corpus("python_docs", "scraped"), 200_000)
    chain.costs(tiny)  # compiles, and keeps what it compiled
    start, few = chain.costs(tiny), records.count(tiny.corpus("python_docs", "scraped"))  # the interpreter, imports, and these few
    rows = []
    for times in (1, 4, 10, 40, 100):
        layout = chain.project(root / f"times {times}")
        folder = layout.corpus("python_docs", "scraped")
        size, count = grow(base, folder, times), records.count(folder)
        rows += [
            (stage, times, size / 1e6, 1e6 * (cost.cpu - start[stage].cpu) / (count - few), cost.peak / (1 << 20))
            for stage, cost in chain.costs(layout).items()
        ]
    print(f"\ngrowth\n  {'':10}{'times':>7}{'MB':>9}{'CPU µs a record':>17}{'peak MiB':>10}")
    for way, times, size, cost, peak in rows:
        print(f"  {way:10}{times:7}{size:9.1f}{cost:17.1f}{peak:10.0f}")
    if plot:
        draw(rows, plot)


def draw(rows: list[tuple[str, int, float, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 3.5), layout="constrained")
    cost, memory = figure.subplots(1, 2)
    for way in chain.STAGES:
        those = [row for row in rows if row[0] == way]
        cost.plot([row[2] for row in those], [row[3] for row in those], "o-", label=way)
        memory.plot([row[2] for row in those], [row[4] for row in those], "o-", label=way)
    for axes, label in ((cost, "CPU microseconds a record"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", xlabel="corpus, MB", ylabel=label, ylim=(0, None))
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 MB instead of 100")
    parser.add_argument("--only", choices=("beside", "filters", "growth"), help="one of the measurements")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that has the peers, whose needs may clash with ours"
    )
    parser.add_argument("--plot", type=Path, help="draw the growth into this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if asked.only == "filters":
            filters(Path(root) / "records", 2 if asked.quick else 10, asked.python)
        if asked.only in ("beside", None):
            beside(Path(root), 10 if asked.quick else 100, 2 if asked.quick else 10, asked.python)
        if asked.only in ("growth", None):
            growth(Path(root), 1 if asked.quick else 4, asked.plot)


if __name__ == "__main__":
    sys.exit(main())
