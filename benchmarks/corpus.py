"""Compare filtering and dedup of real text with datatrove and Daft.

The comparison covers CPU time, memory, recall and precision.

A peer that is not installed (`pip install 'datatrove[io,processing]' orjson spacy daft ruamel.yaml numba`, in the environment of
`--python`) is skipped with a line. Only ratios of CPU seconds are reliable on a busy machine.
"""

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from comparisons import results, stage_costs
from comparisons.results import ResultRow
from comparisons.synthetic_corpus import SyntheticDuplicates, build_corpus, scale_corpus

from provenlm.core import ngram_hashing, records, registry
from provenlm.core.executors.base import batch_records
from provenlm.core.interfaces import FilterSpec
from provenlm.dedup import brute_force
from provenlm.domains.text.dedupe import spec as text_dedupe
from provenlm.domains.text.filter import language_id, pii
from provenlm.domains.text.filter.text_stats import compute_text_stats
from provenlm.filtering import scoring

HERE = Path(__file__).resolve().parent
JACCARD_THRESHOLD = 0.7
NGRAM_HASHES = text_dedupe.ngram_hashes(text_dedupe.TextDedupeConfig(JACCARD_THRESHOLD, 5, 5))
MAX_PIVOTS = 300  # removed records that are compared with all kept ones, for the precision
ROUNDS = 3
FILTERS = ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter")
FASTEST_PEER = "datatrove FineWebQualityFilter"
SCALES = (1, 4, 10, 40, 100)


def run_implementation(implementation: str, folder: Path, python: str) -> dict[str, Any] | None:
    """Run an implementation in its own process; return None if missing or failed.

    A peer runs with the interpreter `python`.
    """
    package = implementation.split()[0]
    is_peer = package in ("datatrove", "daft")
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    if is_peer and subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        print(f"  {implementation}: skipped, {package} is not installed", flush=True)
        return None
    command = [python if is_peer else sys.executable, "-m", "comparisons.implementations", implementation, str(folder)]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if completed.returncode:
        error = completed.stderr.strip().splitlines()[-1] if completed.stderr.strip() else completed.returncode
        print(f"  {implementation}: failed: {error}", flush=True)
        return None
    result: dict[str, Any] = json.loads(completed.stdout.strip().splitlines()[-1])
    return result


def print_header(title: str) -> None:
    """Print the title and the column headers of a table."""
    print(f"\n{title}\n  {'':34}{'CPU s':>9}{'MB/CPU s':>10}{'× CPU':>9}{'peak MiB':>9}", flush=True)


def print_row(implementation: str, result: dict[str, Any], num_bytes: int, ratio: float) -> None:
    """Print one line of a table."""
    speed, peak = num_bytes / 1e6 / result["cpu"], result["peak"] / (1 << 20)
    print(f"  {implementation:34}{result['cpu']:9.1f}{speed:10.2f}{ratio:9.1f}{peak:9.0f}", flush=True)


def result_rows(comparison: str, implementation: str, result: dict[str, Any], ratio: float) -> list[ResultRow]:
    """Return CPU time and memory as rows of a result file."""
    name = f"{comparison}: {label(implementation)}"
    return [
        ResultRow(f"{name}, CPU time", result["cpu"], "s", ratio),
        ResultRow(f"{name}, peak memory", result["peak"] / (1 << 20), "MiB"),
    ]


def label(implementation: str) -> str:
    """Name an implementation as in the documentation."""
    package, _, part = implementation.rpartition(" ")
    return " ".join(filter(None, (package or "Provenlm", "" if part in ("filter", "dedupe") else part)))


def dedup_quality(folder: Path, duplicates: SyntheticDuplicates, kept_mask: np.ndarray) -> dict[str, float]:
    """Compute recall on planted duplicates and precision on removed records.

    Recall uses exact similarity, precision a sample.
    """
    removed = np.flatnonzero(~kept_mask).tolist()
    sample = random.Random(3).sample(removed, min(MAX_PIVOTS, len(removed)))
    needed_rows = {*sample, *(row for pair in duplicates.near for row in pair)}
    hashes = {
        row: ngram_hashing.sorted_unique(NGRAM_HASHES(record))
        for row, record in enumerate(records.read_records(folder))
        if row in needed_rows
    }
    pivots = {row: hashes[row] for row in sample}
    kept_hashes = (
        (row, ngram_hashing.sorted_unique(NGRAM_HASHES(record)))
        for row, record in enumerate(records.read_records(folder))
        if kept_mask[row]
    )
    similar_pairs = brute_force.brute_force_pairs(kept_hashes, pivots, JACCARD_THRESHOLD)
    true_duplicates = {row for pair in similar_pairs for row in pair if row in pivots}
    quality = {"recall, exact duplicates": recall(duplicates.exact, kept_mask)}
    for low, high in ((0.9, 1.01), (0.8, 0.9), (0.7, 0.8)):
        pairs = [(a, b) for a, b in duplicates.near if low <= jaccard(hashes[a], hashes[b]) < high]
        quality[f"recall at Jaccard {low} to {min(high, 1.0)}"] = recall(pairs, kept_mask)
    return {**quality, "precision": len(true_duplicates) / max(1, len(sample))}


def jaccard(hashes_a: np.ndarray, hashes_b: np.ndarray) -> float:
    """Return the Jaccard similarity of two sets of hashes."""
    shared = len(np.intersect1d(hashes_a, hashes_b, assume_unique=True))
    return shared / max(1, len(hashes_a) + len(hashes_b) - shared)


def recall(pairs: list[tuple[int, int]], kept_mask: np.ndarray) -> float:
    """Return the fraction of pairs with at most one record left; NaN without pairs."""
    return sum(not (kept_mask[a] and kept_mask[b]) for a, b in pairs) / len(pairs) if pairs else float("nan")


def compare_dedup(root: Path, megabytes: int, python: str) -> list[ResultRow]:
    """Compare near-duplicate removal with Daft and datatrove on one corpus."""
    folder = root / "dedup" / "records"
    duplicates = build_corpus(folder, megabytes * 10**6)
    print_header(
        f"near-duplicates: {duplicates.num_texts} texts, {duplicates.num_bytes / 1e6:.1f} MB, "
        f"{len(duplicates.exact)} exact and {len(duplicates.near)} near duplicates planted"
    )
    rows, baseline_cpu = [], None
    for implementation in ("dedupe", "daft dedupe", "datatrove dedupe"):
        if result := run_implementation(implementation, folder, python):
            baseline_cpu = baseline_cpu or result["cpu"]
            ratio = result["cpu"] / baseline_cpu
            print_row(implementation, result, duplicates.num_bytes, ratio)
            quality = dedup_quality(folder, duplicates, np.load(folder.parent / f"{implementation}.npy"))
            print("    " + "; ".join(f"{name} {value:.4f}" for name, value in quality.items()), flush=True)
            rows += result_rows("dedup", implementation, result, ratio)
            rows += [ResultRow(f"dedup: {label(implementation)}, {name}", value, "") for name, value in quality.items()]
    return rows


def compare_filters(root: Path, megabytes: int, python: str) -> list[ResultRow]:
    """Compare our filters with each filter of datatrove.

    Its fastest filter is also timed on texts that it reads to the end.

    Ours computes the statistics that all four rule sets need, and a score; a datatrove filter stops at the first rule that drops a text.
    """
    folder = root / "filters" / "records"
    build_corpus(folder, megabytes * 10**6)
    rows = compare_in_rounds("filters", folder, ["filter", *(f"datatrove {name}" for name in FILTERS)], python)
    large_folder, passing_folder = root / "large" / "records", root / "passing" / "records"
    build_corpus(large_folder, 10 * megabytes * 10**6)
    if run_implementation(FASTEST_PEER, large_folder, python):
        kept_mask = np.load(large_folder.parent / f"{FASTEST_PEER}.npy")
        passing = (record for record, is_kept in zip(records.read_records(large_folder), kept_mask, strict=True) if is_kept)
        records.write_records(passing, passing_folder)
        rows += compare_in_rounds("filters on texts that pass", passing_folder, ["filter", FASTEST_PEER], python)
    return rows


def compare_in_rounds(comparison: str, folder: Path, implementations: list[str], python: str) -> list[ResultRow]:
    """Run the implementations in turns and return medians.

    Other load changes the value of a CPU second.
    """
    num_bytes = sum(len(record.content) for record in records.read_records(folder))
    results_by_name = defaultdict[str, list[dict[str, Any]]](list)
    print_header(f"{comparison}: {records.count_records(folder)} texts, {num_bytes / 1e6:.1f} MB, {ROUNDS} rounds")
    for _ in range(ROUNDS):
        for implementation in implementations:
            if result := run_implementation(implementation, folder, python):
                results_by_name[implementation].append(result)
    rows = []
    for implementation, runs in results_by_name.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in ("cpu", "peak")}
        pairs = zip(runs, results_by_name["filter"], strict=True)
        ratio = statistics.median(run["cpu"] / baseline["cpu"] for run, baseline in pairs)
        print_row(implementation, medians, num_bytes, ratio)
        rows += result_rows(comparison, implementation, medians, ratio)
    return rows


def measure_scaling(root: Path, megabytes: float, plot: Path | None) -> list[ResultRow]:
    """Measure CPU time per record and memory at 1 to 100 times the size.

    The larger corpora repeat the texts with shuffled words. The cost of a run on a few records is subtracted.
    """
    base, tiny = root / "base" / "records", stage_costs.make_project(root / "tiny")
    build_corpus(base, megabytes * 10**6)
    build_corpus(tiny.corpus_dir("python_docs", "scraped"), 200_000)
    stage_costs.stage_costs(tiny)  # compiles and caches the compiled code
    startup_costs = stage_costs.stage_costs(tiny)
    startup_count = records.count_records(tiny.corpus_dir("python_docs", "scraped"))
    print(f"\nscaling\n  {'':10}{'times':>7}{'MB':>9}{'CPU µs/record':>17}{'peak MiB':>10}")
    points, rows = [], []
    for times in SCALES:
        paths = stage_costs.make_project(root / f"times {times}")
        folder = paths.corpus_dir("python_docs", "scraped")
        num_bytes, count = scale_corpus(base, folder, times), records.count_records(folder)
        rows.append(ResultRow(f"growth: records at {num_bytes / 1e6:.0f} MB", count, "records"))
        for stage, cost in stage_costs.stage_costs(paths).items():
            cpu_us = 1e6 * (cost.cpu_seconds - startup_costs[stage].cpu_seconds) / (count - startup_count)
            points.append((stage, num_bytes / 1e6, cpu_us, cost.peak_bytes / (1 << 20)))
            print(f"  {stage:10}{times:7}{num_bytes / 1e6:9.1f}{cpu_us:17.1f}{cost.peak_bytes / (1 << 20):10.0f}", flush=True)
    if plot:
        plot_scaling(points, plot)
    for stage, size, cpu_us, peak in points:
        rows.append(ResultRow(f"growth: {stage}, CPU time per record at {size:.0f} MB", cpu_us / 1000, "ms"))
        rows.append(ResultRow(f"growth: {stage}, peak memory at {size:.0f} MB", peak, "MiB"))
    return rows


def measure_filter_stage(root: Path, megabytes: int) -> list[ResultRow]:
    """Measure the CPU time of each part of the filter stage with default settings, in this process."""
    folder = root / "parts" / "records"
    build_corpus(folder, megabytes * 10**6)
    spec = registry.load_domain("text", "filter", FilterSpec)
    default = spec.config_type()
    batches: list[list[records.Record]] = []
    alone = dataclasses.replace(default, pii=None, language_filter=None)

    def read() -> None:
        batches[:] = batch_records(records.read_records(folder))

    def run(config: Any) -> None:
        step = scoring.make_filter_step(spec, config)
        for batch in batches:
            step.apply(batch)

    batches.append([record for record, _ in zip(records.read_records(folder), range(20), strict=False)])
    run(default)  # compiles
    parts: dict[str, Callable[[], object]] = {
        "reading Parquet": read,
        "personal data": lambda: [pii.find_pii(record.content) for batch in batches for record in batch],
        "language identification": lambda: [language_id.identify_language(item.content) for batch in batches for item in batch],
        "text statistics": lambda: [compute_text_stats([record.content for record in batch]) for batch in batches],
        "statistics, rules, thresholds and scores": lambda: run(alone),
        "writing Parquet": lambda: records.write_records((record for batch in batches for record in batch), root / "parts" / "out"),
    }
    print(f"\nthe filter stage: {megabytes} MB\n  {'':44}{'CPU s':>9}")
    rows = []
    for part, action in parts.items():
        start = time.process_time()
        action()
        seconds = time.process_time() - start
        print(f"  {part:44}{seconds:9.2f}", flush=True)
        rows.append(ResultRow(f"filter stage: {part}, CPU time for {megabytes} MB", seconds, "s"))
    return rows


def plot_scaling(points: list[tuple[str, float, float, float]], path: Path) -> None:
    """Plot CPU time per record and peak memory over the size of the corpus."""
    from matplotlib.figure import Figure

    fig = Figure((9, 3.5), layout="constrained")
    cost_axes, memory_axes = fig.subplots(1, 2)
    for stage in stage_costs.STAGES:
        sizes, costs, peaks = zip(*(point[1:] for point in points if point[0] == stage), strict=True)
        cost_axes.plot(sizes, costs, "o-", label=stage)
        memory_axes.plot(sizes, peaks, "o-", label=stage)
    for axes, label in ((cost_axes, "CPU microseconds per record"), (memory_axes, "peak memory, MiB")):
        axes.set(xscale="log", xlabel="corpus, MB", ylabel=label, ylim=(0, None))
        axes.legend(frameon=False)
    fig.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run the selected comparisons and write benchmarks/results/corpus.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "a tenth of the text")
    parser.add_argument("--only", choices=("dedup", "filters", "parts", "scaling"), help="run one of the comparisons")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter with the peers, whose requirements may conflict with ours"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=HERE.parent / "docs/reference/growth.svg",
        metavar="FILE",
        help="plot of the scaling, none with --quick (default: docs/reference/growth.svg)",
    )
    options = parser.parse_args()
    rows: list[ResultRow] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if options.only in ("dedup", None):
            rows += compare_dedup(root, 10 if options.quick else 100, options.python)
        if options.only in ("filters", None):
            rows += compare_filters(root, 1 if options.quick else 10, options.python)
        if options.only in ("parts", None):
            rows += measure_filter_stage(root, 10 if options.quick else 100)
        if options.only in ("scaling", None):
            rows += measure_scaling(root, 0.2 if options.quick else 4, None if options.quick else options.plot)
    results.save_results("corpus", rows, options)


if __name__ == "__main__":
    main()
