"""Write Parquet shards of real texts with planted exact and near duplicates.

The texts are modules and documentation of Python, its packages and the system. One text in ten is repeated exactly, and one in ten with
one to five percent of its words replaced, removed or doubled.
"""

import random
import site
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenlm.core import records
from provenlm.core.records import Record

SUFFIXES = {".py", ".rst", ".md", ".txt", ".html", ".pyi"}
MIN_BYTES, MAX_BYTES = 500, 200_000  # size limits of a text


@dataclass(frozen=True)
class SyntheticDuplicates:
    """Hold pairs of (duplicate row, original row), and the size of the corpus."""

    exact: list[tuple[int, int]]
    near: list[tuple[int, int]]
    num_texts: int
    num_bytes: int


def local_files() -> Iterator[Path]:
    roots = [sysconfig.get_paths()["stdlib"], *site.getsitepackages(), "/usr/share/doc", "/usr/lib/python3"]
    for root in dict.fromkeys(roots):
        yield from sorted(
            path for path in Path(root).rglob("*") if path.suffix in SUFFIXES and "site-packages/numba" not in str(path)
        )


def local_texts(limit: int) -> Iterator[str]:
    """Yield distinct real texts of about `limit` bytes in total, in a shuffled order."""
    paths = [path for path in local_files() if path.is_file() and MIN_BYTES <= path.stat().st_size <= MAX_BYTES]
    random.Random(1).shuffle(paths)
    size, hashes = 0, set[int]()
    for path in paths:
        text = path.read_text("utf-8", "replace")
        if hash(text) not in hashes:
            hashes.add(hash(text))
            size += len(text.encode("utf-8", "replace"))
            yield text
            if size >= limit:
                return


def perturb(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for _ in range(max(1, int(len(words) * rng.uniform(0.01, 0.05)))):
        index = rng.randrange(len(words))
        words[index] = rng.choice(["", "word", f"{words[index]} {words[index]}"])
    return " ".join(words)


def build_corpus(folder: Path, limit: float) -> SyntheticDuplicates:
    """Write shards of about `limit` bytes, including duplicates, in a shuffled order."""
    rng, originals = random.Random(2), list(local_texts(int(limit / 1.2)))
    items: list[tuple[str, str, int]] = [(text, "original", index) for index, text in enumerate(originals)]
    for index in rng.sample(range(len(originals)), len(originals) // 10):
        items.append((originals[index], "exact", index))
    for index in rng.sample(range(len(originals)), len(originals) // 10):
        items.append((perturb(originals[index], rng), "near", index))
    rng.shuffle(items)
    row_of = {index: row for row, (_, kind, index) in enumerate(items) if kind == "original"}
    pairs = {
        kind: [(row, row_of[index]) for row, (_, copy_kind, index) in enumerate(items) if copy_kind == kind]
        for kind in ("exact", "near")
    }
    contents = [text.encode("utf-8", "replace") for text, _, _ in items]
    new_records = (
        Record.from_content(content, "text/plain", f"text {row}", score=1.0, row=row) for row, content in enumerate(contents)
    )
    records.write_records(new_records, folder)
    return SyntheticDuplicates(pairs["exact"], pairs["near"], len(items), sum(map(len, contents)))


def scale_corpus(source: Path, folder: Path, times: int) -> int:
    """Write the records of `source` `times` times and return the bytes.

    Each copy after the first has shuffled words within its lines.
    """
    size = 0

    def scaled_records() -> Iterator[Record]:
        nonlocal size
        for copy in range(times):
            rng = random.Random(copy)
            for item in records.read_records(source):
                content = item.content
                if copy:
                    lines = [line.split(b" ") for line in content.split(b"\n")]
                    for words in lines:
                        rng.shuffle(words)
                    content = b"\n".join(b" ".join(words) for words in lines)
                size += len(content)
                yield Record.from_content(content, "text/plain", f"{item.source} {copy}", score=1.0)

    records.write_records(scaled_records(), folder)
    return size
