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
from comparisons.synthetic_corpus import SyntheticDuplicates, build_corpus, scale_corpus

from provenlm.core import ngram_hashing, records
from provenlm.dedup import brute_force
from provenlm.domains.text.dedupe import spec as text

HERE = Path(__file__).resolve().parent
NGRAM_HASHES = text.ngram_hashes(text.TextDedupeConfig(0.7, 5, 5))
MAX_PIVOTS = 300  # removed records, and records with a planted copy, that are compared with all others
ROUNDS = 3
FILTERS = ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter")
FASTEST_PEER = "datatrove FineWebQualityFilter"


def measure(implementation: str, folder: Path, python: str) -> dict[str, Any] | None:
    """Run one way in a process of its own, a peer by the interpreter `python`; None, and a line, where the peer is not there."""
    package = implementation.split()[0]
    is_peer = package in ("datatrove", "daft")
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    if is_peer and subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        print(f"  {implementation}: left out, {package} is not installed", flush=True)
        return None
    command = [python if is_peer else sys.executable, "-m", "beside.ways", implementation, str(folder)]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if completed.returncode:
        print(
            f"  {implementation}: failed: {completed.stderr.strip().splitlines()[-1] if completed.stderr.strip() else completed.returncode}",
            flush=True,
        )
        return None
    result: dict[str, Any] = json.loads(completed.stdout.strip().splitlines()[-1])
    return result


def print_row(implementation: str, result: dict[str, Any], size: int, baseline_cpu: float, note: str = "") -> None:
    rate, peak = size / 1e6 / result["cpu"], result["peak"] / (1 << 20)
    print(
        f"  {implementation:34}{result['cpu']:9.1f}{rate:10.2f}{result['cpu'] / baseline_cpu:9.1f}{peak:9.0f}  {note}", flush=True
    )


def print_header(title: str) -> None:
    print(f"\n{title}\n  {'':34}{'CPU s':>9}{'MB/CPU s':>10}{'× CPU':>9}{'peak MiB':>9}", flush=True)


def dedup_quality(folder: Path, duplicates: SyntheticDuplicates, kept_mask: np.ndarray) -> str:
    """Recall on the planted copies, near ones by their exact similarity; precision on a sample of what was removed."""
    removed = np.flatnonzero(~kept_mask).tolist()
    sample = random.Random(3).sample(removed, min(MAX_PIVOTS, len(removed)))
    needed_rows = {*sample, *(row for pair in duplicates.near for row in pair)}
    sets = {
        row: ngram_hashing.sorted_unique(NGRAM_HASHES(item))
        for row, item in enumerate(records.read_records(folder))
        if row in needed_rows
    }
    pivots = {row: sets[row] for row in sample}
    members = (
        (row, ngram_hashing.sorted_unique(NGRAM_HASHES(item)))
        for row, item in enumerate(records.read_records(folder))
        if kept_mask[row]
    )
    true_duplicates = {row for pair in brute_force.brute_force_pairs(members, pivots, 0.7) for row in pair if row in pivots}
    parts = [f"exact {recall_text(duplicates.exact, kept_mask)}"]
    for low, high in ((0.9, 1.01), (0.8, 0.9), (0.7, 0.8)):
        pairs = [(a, b) for a, b in duplicates.near if low <= jaccard(sets[a], sets[b]) < high]
        parts.append(f"J {low}-{min(high, 1.0)} {recall_text(pairs, kept_mask)}")
    return f"recall {', '.join(parts)}; precision {len(true_duplicates) / max(1, len(sample)):.4f} of {len(sample)}"


def jaccard(hashes_a: np.ndarray, hashes_b: np.ndarray) -> float:
    shared = len(np.intersect1d(hashes_a, hashes_b, assume_unique=True))
    return shared / max(1, len(hashes_a) + len(hashes_b) - shared)


def recall_text(pairs: list[tuple[int, int]], kept_mask: np.ndarray) -> str:
    return f"{sum(not (kept_mask[a] and kept_mask[b]) for a, b in pairs) / len(pairs):.4f} of {len(pairs)}" if pairs else "none"


def compare_dedup(root: Path, megabytes: int, filter_megabytes: int, python: str) -> None:
    """Both jobs on one corpus; datatrove's filters, being slow, on a part of it."""
    folder = root / "whole" / "records"
    duplicates = build_corpus(folder, megabytes * 10**6)
    print_header(
        f"near-duplicates: {duplicates.num_texts} texts, {duplicates.num_bytes / 1e6:.1f} MB, {len(duplicates.exact)} exact and {len(duplicates.near)} near copies planted"
    )
    baseline_cpu = None
    for implementation in ("dedupe", "daft dedupe", "datatrove dedupe"):
        if result := measure(implementation, folder, python):
            baseline_cpu = baseline_cpu or result["cpu"]
            print_row(
                implementation,
                result,
                duplicates.num_bytes,
                baseline_cpu,
                dedup_quality(folder, duplicates, np.load(folder.parent / f"{implementation}.npy")),
            )
    compare_filters(root / "part" / "records", filter_megabytes, python)


def compare_filters(folder: Path, megabytes: int, python: str) -> None:
    """Ours and each of datatrove's, which may stop at the first rule that drops a text; then its fastest on texts that it reads whole."""
    small_corpus, peers = build_corpus(folder, megabytes * 10**6), [f"datatrove {name}" for name in FILTERS]
    description = "ours reads them, computes what all four need, and a score"
    compare_in_rounds(
        f"filters, {ROUNDS} rounds: {small_corpus.num_texts} texts; {description}", folder, ["filter", *peers], python
    )
    large_folder = folder.parents[1] / "many" / "records"
    build_corpus(large_folder, 10 * megabytes * 10**6)
    if measure(FASTEST_PEER, large_folder, python):
        kept_mask, kept_folder = np.load(large_folder.parent / f"{FASTEST_PEER}.npy"), folder.parents[1] / "whole texts" / "records"
        records.write_records(
            (item for item, is_kept in zip(records.read_records(large_folder), kept_mask, strict=True) if is_kept), kept_folder
        )
        compare_in_rounds(
            "filters, on texts that datatrove's fastest keeps and so reads to the end",
            kept_folder,
            ["filter", FASTEST_PEER],
            python,
        )


def compare_in_rounds(title: str, folder: Path, implementations: list[str], python: str) -> None:
    """Because what else the machine does changes what a CPU second is worth; medians."""
    size, runs_by_implementation = (
        sum(len(item.content) for item in records.read_records(folder)),
        defaultdict[str, list[dict[str, Any]]](list),
    )
    print_header(f"{title}: {size / 1e6:.1f} MB")
    for _ in range(ROUNDS):
        for implementation in implementations:
            if result := measure(implementation, folder, python):
                runs_by_implementation[implementation].append(result)
    for implementation, runs in runs_by_implementation.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in ("cpu", "peak")}
        ratio = statistics.median(
            run["cpu"] / baseline_run["cpu"] for run, baseline_run in zip(runs, runs_by_implementation["filter"], strict=True)
        )
        print_row(implementation, medians, size, medians["cpu"] / ratio)


def measure_scaling(root: Path, megabytes: int, plot: Path | None) -> None:
    """The cost of a record, and memory, at once, ten and a hundred times the size: the same texts, then with their words mixed."""
    base, tiny = root / "base" / "records", chain.make_project(root / "tiny")
    build_corpus(base, megabytes * 10**6)
    build_corpus(tiny.corpus_dir("python_docs", "scraped"), 200_000)
    chain.stage_costs(tiny)  # compiles, and keeps what it compiled
    startup_costs, base_count = (
        chain.stage_costs(tiny),
        records.count_records(tiny.corpus_dir("python_docs", "scraped")),
    )  # the interpreter, imports, and these few
    rows = []
    for times in (1, 4, 10, 40, 100):
        layout = chain.make_project(root / f"times {times}")
        folder = layout.corpus_dir("python_docs", "scraped")
        size, count = scale_corpus(base, folder, times), records.count_records(folder)
        rows += [
            (
                stage,
                times,
                size / 1e6,
                1e6 * (cost.cpu_seconds - startup_costs[stage].cpu_seconds) / (count - base_count),
                cost.peak_bytes / (1 << 20),
            )
            for stage, cost in chain.stage_costs(layout).items()
        ]
    print(f"\ngrowth\n  {'':10}{'times':>7}{'MB':>9}{'CPU µs a record':>17}{'peak MiB':>10}")
    for stage_name, times, size, cost, peak in rows:
        print(f"  {stage_name:10}{times:7}{size:9.1f}{cost:17.1f}{peak:10.0f}")
    if plot:
        plot_scaling(rows, plot)


def plot_scaling(rows: list[tuple[str, int, float, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    fig = Figure((9, 3.5), layout="constrained")
    cost, memory = fig.subplots(1, 2)
    for stage_name in chain.STAGES:
        stage_rows = [row for row in rows if row[0] == stage_name]
        cost.plot([row[2] for row in stage_rows], [row[3] for row in stage_rows], "o-", label=stage_name)
        memory.plot([row[2] for row in stage_rows], [row[4] for row in stage_rows], "o-", label=stage_name)
    for axes, label in ((cost, "CPU microseconds a record"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", xlabel="corpus, MB", ylabel=label, ylim=(0, None))
        axes.legend(frameon=False)
    fig.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 MB instead of 100")
    parser.add_argument("--only", choices=("beside", "filters", "growth"), help="one of the measurements")
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter that has the peers, whose needs may clash with ours"
    )
    parser.add_argument("--plot", type=Path, help="draw the growth into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if options.only == "filters":
            compare_filters(Path(root) / "records", 2 if options.quick else 10, options.python)
        if options.only in ("beside", None):
            compare_dedup(Path(root), 10 if options.quick else 100, 2 if options.quick else 10, options.python)
        if options.only in ("growth", None):
            measure_scaling(Path(root), 1 if options.quick else 4, options.plot)


if __name__ == "__main__":
    sys.exit(main())
