"""One way of filtering or deduplicating a folder of records: `python -m beside.ways WAY FOLDER` prints its CPU seconds and peak memory.

Each way runs in a process of its own. Which rows it keeps goes into `WAY.npy` beside the folder. Imports and compilation do not count.
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

from provenlm.core import config as params
from provenlm.core import interfaces, records, registry
from provenlm.core.executors.local import Here

ROOT = Path(__file__).resolve().parents[2]
BANDS, ROWS = 14, 8  # datatrove's own


def settings(stage: str, face: Any) -> Any:
    return params.load(ROOT / "params.yaml").settings("corpora", "python_docs", stage, face.settings)


def filtered(folder: Path) -> Callable[[], np.ndarray]:
    """All statistics, bands by profile, the rules of four published sets, the score; no language, nothing private."""
    import dataclasses

    from provenlm.filtering import scoring

    face = registry.load_domain("text", "filter", interfaces.Filtering)
    asked = dataclasses.replace(settings("filter", face), languages=None, private=None)
    work = scoring.judging(face, asked)
    return lambda: np.array([judged.reason is None for _, judged in Here(lambda: records.read(folder)).map(work)])


def deduped(folder: Path) -> Callable[[], np.ndarray]:
    from provenlm.dedup import near_duplicates

    face = registry.load_domain("text", "dedupe", interfaces.Deduping)
    asked = settings("dedupe", face)
    corpus = Here(lambda: records.read(folder))
    return lambda: near_duplicates.find(corpus, face.canonical, face.shingles(asked), face.threshold(asked)).kept


def jsonl(folder: Path) -> tuple[Path, int]:
    """The records as datatrove reads them."""
    out = folder.parent / "jsonl"
    out.mkdir(exist_ok=True)
    count = 0
    with (out / "0.jsonl").open("w", encoding="utf-8") as file:
        for count, item in enumerate(records.read(folder), start=1):
            print(json.dumps({"text": item.body.decode("utf-8", "replace"), "id": str(count - 1)}), file=file)
    return out, count


def datatrove_deduped(folder: Path) -> Callable[[], np.ndarray]:
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    source, count = jsonl(folder)
    out = folder.parent / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    config, read = MinhashConfig(num_buckets=BANDS, hashes_per_bucket=ROWS, n_grams=5), JsonlReader(str(source))

    def run() -> np.ndarray:
        write = JsonlWriter(f"{out}/out", compression=None)
        for number, (steps, tasks) in enumerate(
            (
                ([read, MinhashDedupSignature(output_folder=f"{out}/sig", config=config)], 1),
                ([MinhashDedupBuckets(input_folder=f"{out}/sig", output_folder=f"{out}/buckets", config=config)], BANDS),
                ([MinhashDedupCluster(input_folder=f"{out}/buckets", output_folder=f"{out}/remove", config=config)], 1),
                ([read, MinhashDedupFilter(input_folder=f"{out}/remove"), write], 1),
            )
        ):
            LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=f"{out}/logs/{number}").run()
        kept = np.zeros(count, bool)
        for path in Path(out, "out").glob("*.jsonl"):
            for line in path.open(encoding="utf-8"):
                kept[int(json.loads(line)["id"])] = True
        return kept

    return run


def datatrove_filter(name: str) -> Callable[[Path], Callable[[], np.ndarray]]:
    """One of its filters; each document is handed over in memory."""

    def prepare(folder: Path) -> Callable[[], np.ndarray]:
        from datatrove.data import Document
        from datatrove.pipeline import filters
        from datatrove.utils.text import split_into_sentences, split_into_words

        one = getattr(filters, name)()
        documents = [Document(item.body.decode("utf-8", "replace"), str(i)) for i, item in enumerate(records.read(folder))]
        split_into_words("Loads its tokenizer, which a text dropped early would not."), split_into_sentences("It does. So.")
        return lambda: np.array([one.filter(document) is True for document in documents])

    return prepare


def daft_deduped(folder: Path) -> Callable[[], np.ndarray]:
    """MinHash, bands and connected components, as its guide has it; nothing is verified."""
    import daft
    from daft import DataType, col

    daft.set_runner_native()
    count = records.count(folder)

    @daft.func()
    def places(band: list[int]) -> list[int]:
        return list(range(BANDS))

    def run() -> np.ndarray:
        frame = daft.read_parquet(f"{folder}/*.parquet").select(
            col("source").split(" ").get(1).cast(DataType.int64()).alias("row"),
            col("body")
            .cast(DataType.string())
            .normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
            .alias("text"),
        )
        hashed = col("text").minhash(num_hashes=BANDS * ROWS, ngram_size=5, seed=42, hash_function="xxhash")
        frame = frame.with_column("minima", hashed).select("row", "minima").collect()
        bands = frame.with_column("keys", col("minima").cast(DataType.list(DataType.uint32())).chunk(ROWS))
        bands = bands.with_column("band", places(col("minima"))).select("row", "keys", "band").explode("keys", "band")
        groups = bands.groupby(col("band"), col("keys")).agg(col("row").list_agg().alias("rows")).where(col("rows").length() > 1)
        parent = list(range(count))

        def root(row: int) -> int:
            while parent[row] != row:
                parent[row] = parent[parent[row]]
                row = parent[row]
            return row

        for rows in groups.select("rows").to_pydict()["rows"]:
            for row in rows[1:]:
                one, other = sorted((root(rows[0]), root(row)))
                parent[other] = one
        return np.array([root(row) == row for row in range(count)])

    return run


WAYS: dict[str, Callable[[Path], Callable[[], np.ndarray]]] = {
    "filter": filtered,
    "dedupe": deduped,
    "datatrove dedupe": datatrove_deduped,
    "daft dedupe": daft_deduped,
    **{
        f"datatrove {n}": datatrove_filter(n)
        for n in ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter")
    },
}


def main() -> None:
    way, folder = sys.argv[1], Path(sys.argv[2])
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    if way in ("filter", "dedupe"):
        small = folder.parent / "warm"
        records.write(first(folder, 20), small)
        WAYS[way](small)()  # compiles
    run = WAYS[way](folder)
    begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    kept = run()
    end = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = end.ru_utime + end.ru_stime - begin[0].ru_utime - begin[0].ru_stime + children.ru_utime + children.ru_stime
    np.save(folder.parent / f"{way}.npy", kept)
    print(json.dumps({"cpu": cpu, "wall": time.perf_counter() - begin[1], "peak": end.ru_maxrss * 1024, "kept": int(kept.sum())}))


def first(folder: Path, count: int) -> list[records.Record]:
    return [item for item, _ in zip(records.read(folder), range(count), strict=False)]


if __name__ == "__main__":
    main()
