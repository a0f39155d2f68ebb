"""Nothing in; out, how many megabytes of documentation a CPU second filters and dedupes, beside datasketch where that is installed.

The text is what pydoc says of the standard library's modules, rendered on the spot.
"""

import argparse
import importlib.util
import pydoc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from beside.rounds import compare, keep, show

from provenlm.core import params, plugin
from provenlm.core.engine import Here
from provenlm.core.record import Record
from provenlm.corpus import duplicates, filtering

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "argparse",
    "ast",
    "asyncio",
    "collections",
    "csv",
    "datetime",
    "decimal",
    "email",
    "functools",
    "http.client",
    "inspect",
)
MODULES += (
    "json",
    "logging",
    "os",
    "pathlib",
    "pickle",
    "random",
    "re",
    "socket",
    "sqlite3",
    "subprocess",
    "tarfile",
    "typing",
    "zipfile",
)
TIMES = 4  # each text comes with so many last lines, so that there is something to find


def documentation(modules: tuple[str, ...]) -> list[Record]:
    """Texts of modules, and near twins of each."""
    texts = [pydoc.plain(pydoc.render_doc(name)) for name in modules]
    bodies = [f"{text}\nrevision {i} of {TIMES}".encode() for i in range(TIMES) for text in texts]
    return [Record.of(body, "text/plain", f"pydoc {number}", score=1.0) for number, body in enumerate(bodies)]


def filtered(records: list[Record]) -> int:
    """How many are kept by the filter of the default corpus."""
    face = plugin.load("domains", "text", "filter", plugin.Filtering)
    settings = params.load(ROOT / "params.yaml").settings("corpora", "python_docs", "filter", face.settings)
    return sum(item.reason is None for item in filtering.judging(face, settings).do(records))


def deduped(records: list[Record]) -> int:
    """How many twins the search of the default corpus finds."""
    face = plugin.load("domains", "text", "dedupe", plugin.Deduping)
    settings = params.load(ROOT / "params.yaml").settings("corpora", "python_docs", "dedupe", face.settings)
    found = duplicates.find(Here(lambda: records), face.canonical, face.shingles(settings), face.threshold(settings))
    return len(found.twins)


def datasketch_deduped(records: list[Record]) -> int:
    """The same by MinHash and LSH of datasketch, on shingles of five words."""
    from datasketch import MinHash, MinHashLSH

    index, twins = MinHashLSH(0.7, 128), 0
    for number, record in enumerate(records):
        words = record.text.lower().split()
        signature = MinHash(128)
        signature.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        twins += bool(index.query(signature))
        index.insert(number, signature)
    return twins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fourth of the modules, 3 rounds instead of 5")
    parser.add_argument("--json", type=Path, help="also write the table here")
    asked = parser.parse_args()
    records = documentation(MODULES[::4] if asked.quick else MODULES)
    size = sum(len(record.body) for record in records) / 1e6
    ways: dict[str, Callable[[], object]] = {"filter": partial(filtered, records), "dedupe": partial(deduped, records)}
    if importlib.util.find_spec("datasketch"):
        ways["datasketch"] = partial(datasketch_deduped, records)
    lines = compare(f"corpus: {len(records)} records, {size:.1f} MB", ways, 3 if asked.quick else 5)
    show(lines)
    for line in lines:
        print(f"  {line.way}: {1e3 * size / line.cpu_ms:.1f} MB a CPU second")
    if asked.json:
        keep(asked.json, lines, {"megabytes": size})


if __name__ == "__main__":
    sys.exit(main())
