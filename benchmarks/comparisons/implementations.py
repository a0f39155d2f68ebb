"""Run an implementation of filtering or dedup and print CPU seconds and memory.

Run as `python -m comparisons.implementations NAME FOLDER`. The mask of kept rows goes to `NAME.npy` next to the folder. Imports and
compilation are not counted.
"""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from provenlm.core import interfaces, memory, records, registry
from provenlm.core.config import load_params
from provenlm.core.executors.local import LocalExecutor

ROOT = Path(__file__).resolve().parents[2]
NUM_BANDS, HASHES_PER_BAND = 14, 8  # the defaults of datatrove


def load_config(stage: str, spec: Any) -> Any:
    return load_params(ROOT / "params.yaml").parse_section("corpora", "python_docs", stage, spec.config_type)


def prepare_filter(folder: Path) -> Callable[[], np.ndarray]:
    """Prepare our filter, without language detection and PII.

    It has statistics, thresholds by profile, four published rule sets and the score.
    """
    import dataclasses

    from provenlm.filtering import scoring

    spec = registry.load_domain("text", "filter", interfaces.FilterSpec)
    filter_config = dataclasses.replace(load_config("filter", spec), language_filter=None, pii=None)
    work = scoring.make_filter_step(spec, filter_config)
    return lambda: np.array(
        [decision.drop_reason is None for _, decision in LocalExecutor(lambda: records.read_records(folder)).map(work)]
    )


def prepare_dedup(folder: Path) -> Callable[[], np.ndarray]:
    from provenlm.dedup import near_duplicates

    spec = registry.load_domain("text", "dedupe", interfaces.DedupeSpec)
    dedup_config = load_config("dedupe", spec)
    corpus = LocalExecutor(lambda: records.read_records(folder))
    return lambda: (
        near_duplicates.find_duplicates(
            corpus, spec.normalize, spec.ngram_hashes(dedup_config), spec.jaccard_threshold(dedup_config)
        ).kept_mask
    )


def write_jsonl(folder: Path) -> tuple[Path, int]:
    """Write the records as JSON lines for datatrove."""
    out = folder.parent / "jsonl"
    out.mkdir(exist_ok=True)
    count = 0
    with (out / "0.jsonl").open("w", encoding="utf-8") as file:
        for count, item in enumerate(records.read_records(folder), start=1):
            print(json.dumps({"text": item.content.decode("utf-8", "replace"), "id": str(count - 1)}), file=file)
    return out, count


def prepare_datatrove_dedup(folder: Path) -> Callable[[], np.ndarray]:
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    source, count = write_jsonl(folder)
    out = folder.parent / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    config, reader = MinhashConfig(num_buckets=NUM_BANDS, hashes_per_bucket=HASHES_PER_BAND, n_grams=5), JsonlReader(str(source))

    def run() -> np.ndarray:
        writer = JsonlWriter(f"{out}/out", compression=None)
        for number, (steps, tasks) in enumerate(
            (
                ([reader, MinhashDedupSignature(output_folder=f"{out}/sig", config=config)], 1),
                ([MinhashDedupBuckets(input_folder=f"{out}/sig", output_folder=f"{out}/buckets", config=config)], NUM_BANDS),
                ([MinhashDedupCluster(input_folder=f"{out}/buckets", output_folder=f"{out}/remove", config=config)], 1),
                ([reader, MinhashDedupFilter(input_folder=f"{out}/remove"), writer], 1),
            )
        ):
            LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=f"{out}/logs/{number}").run()
        kept_mask = np.zeros(count, bool)
        for path in Path(out, "out").glob("*.jsonl"):
            for line in path.open(encoding="utf-8"):
                kept_mask[int(json.loads(line)["id"])] = True
        return kept_mask

    return run


def datatrove_filter_factory(name: str) -> Callable[[Path], Callable[[], np.ndarray]]:
    """Return a function that prepares a datatrove filter for documents in memory."""

    def prepare(folder: Path) -> Callable[[], np.ndarray]:
        from datatrove.data import Document
        from datatrove.pipeline import filters
        from datatrove.utils.text import split_into_sentences, split_into_words

        text_filter = getattr(filters, name)()
        documents = [
            Document(item.content.decode("utf-8", "replace"), str(i)) for i, item in enumerate(records.read_records(folder))
        ]
        split_into_words("Loads the tokenizer, which texts that are dropped early would not."), split_into_sentences("It does. So.")
        return lambda: np.array([text_filter.filter(document) is True for document in documents])

    return prepare


def prepare_daft_dedup(folder: Path) -> Callable[[], np.ndarray]:
    """Prepare MinHash, banding and connected components as in the Daft guide.

    Candidates are not verified.
    """
    import daft
    from daft import DataType, col

    daft.set_runner_native()
    count = records.count_records(folder)

    @daft.func()
    def band_indices(band: list[int]) -> list[int]:
        return list(range(NUM_BANDS))

    def run() -> np.ndarray:
        frame = daft.read_parquet(f"{folder}/*.parquet").select(
            col("source").split(" ").get(1).cast(DataType.int64()).alias("row"),
            col("content")
            .cast(DataType.string())
            .normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
            .alias("text"),
        )
        hashed = col("text").minhash(num_hashes=NUM_BANDS * HASHES_PER_BAND, ngram_size=5, seed=42, hash_function="xxhash")
        frame = frame.with_column("minima", hashed).select("row", "minima").collect()
        bands = frame.with_column("keys", col("minima").cast(DataType.list(DataType.uint32())).chunk(HASHES_PER_BAND))
        bands = bands.with_column("band", band_indices(col("minima"))).select("row", "keys", "band").explode("keys", "band")
        groups = bands.groupby(col("band"), col("keys")).agg(col("row").list_agg().alias("rows")).where(col("rows").length() > 1)
        parent = list(range(count))

        def root(row: int) -> int:
            while parent[row] != row:
                parent[row] = parent[parent[row]]
                row = parent[row]
            return row

        for rows in groups.select("rows").to_pydict()["rows"]:
            for row in rows[1:]:
                smaller, larger = sorted((root(rows[0]), root(row)))
                parent[larger] = smaller
        return np.array([root(row) == row for row in range(count)])

    return run


IMPLEMENTATIONS: dict[str, Callable[[Path], Callable[[], np.ndarray]]] = {
    "filter": prepare_filter,
    "dedupe": prepare_dedup,
    "datatrove dedupe": prepare_datatrove_dedup,
    "daft dedupe": prepare_daft_dedup,
    **{
        f"datatrove {n}": datatrove_filter_factory(n)
        for n in ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter")
    },
}


def main() -> None:
    implementation, folder = sys.argv[1], Path(sys.argv[2])
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    if implementation in ("filter", "dedupe"):
        warmup_folder = folder.parent / "warm"
        records.write_records(first_records(folder, 20), warmup_folder)
        IMPLEMENTATIONS[implementation](warmup_folder)()  # compiles
    run = IMPLEMENTATIONS[implementation](folder)
    start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    kept_mask = run()
    end = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = end.ru_utime + end.ru_stime - start[0].ru_utime - start[0].ru_stime + children.ru_utime + children.ru_stime
    np.save(folder.parent / f"{implementation}.npy", kept_mask)
    print(
        json.dumps(
            {"cpu": cpu, "wall": time.perf_counter() - start[1], "peak": memory.max_rss_bytes(), "kept": int(kept_mask.sum())}
        )
    )


def first_records(folder: Path, count: int) -> list[records.Record]:
    return [item for item, _ in zip(records.read_records(folder), range(count), strict=False)]


if __name__ == "__main__":
    main()
