"""A number of megabytes in; out, Parquet shards of real text that lies on this machine, with planted copies, and what was planted.

Modules, documentation and notes of Python, its packages and the system. Of each ten texts one comes again as it is and one with one to
five of a hundred words replaced, left out or doubled.
"""

import random
import site
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenlm.core import records
from provenlm.core.records import Record

ENDINGS = {".py", ".rst", ".md", ".txt", ".html", ".pyi"}
LEAST, MOST = 500, 200_000  # bytes of a text


@dataclass(frozen=True)
class Planted:
    """Rows of copies and of what they copy."""

    exact: list[tuple[int, int]]
    near: list[tuple[int, int]]
    rows: int
    bytes: int


def files() -> Iterator[Path]:
    roots = [sysconfig.get_paths()["stdlib"], *site.getsitepackages(), "/usr/share/doc", "/usr/lib/python3"]
    for root in dict.fromkeys(roots):
        yield from sorted(
            path for path in Path(root).rglob("*") if path.suffix in ENDINGS and "site-packages/numba" not in str(path)
        )


def texts(limit: int) -> Iterator[str]:
    """Different real texts of about `limit` bytes in all, in an order that mixes their sources."""
    found = [path for path in files() if path.is_file() and LEAST <= path.stat().st_size <= MOST]
    random.Random(1).shuffle(found)
    size, seen = 0, set[int]()
    for path in found:
        text = path.read_text("utf-8", "replace")
        if hash(text) not in seen:
            seen.add(hash(text))
            size += len(text.encode("utf-8", "replace"))
            yield text
            if size >= limit:
                return


def changed(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    for _ in range(max(1, int(len(words) * draw.uniform(0.01, 0.05)))):
        place = draw.randrange(len(words))
        words[place] = draw.choice(["", "other", f"{words[place]} {words[place]}"])
    return " ".join(words)


def build(folder: Path, limit: int) -> Planted:
    """Write shards of about `limit` bytes, copies included, in a mixed order."""
    draw, originals = random.Random(2), list(texts(int(limit / 1.2)))
    items: list[tuple[str, str, int]] = [(text, "original", place) for place, text in enumerate(originals)]
    for place in draw.sample(range(len(originals)), len(originals) // 10):
        items.append((originals[place], "exact", place))
    for place in draw.sample(range(len(originals)), len(originals) // 10):
        items.append((changed(originals[place], draw), "near", place))
    draw.shuffle(items)
    row_of = {place: row for row, (_, kind, place) in enumerate(items) if kind == "original"}
    pairs = {kind: [(row, row_of[place]) for row, (_, of, place) in enumerate(items) if of == kind] for kind in ("exact", "near")}
    bodies = [text.encode("utf-8", "replace") for text, _, _ in items]
    made = (Record.of(body, "text/plain", f"text {row}", score=1.0, row=row) for row, body in enumerate(bodies))
    records.write(made, folder)
    return Planted(pairs["exact"], pairs["near"], len(items), sum(map(len, bodies)))


def grow(source: Path, folder: Path, times: int) -> int:
    """The records of `source`, `times` times, the words of all but the first mixed within their lines; how many bytes."""
    size = 0

    def grown() -> Iterator[Record]:
        nonlocal size
        for turn in range(times):
            draw = random.Random(turn)
            for item in records.read(source):
                body = item.body
                if turn:
                    lines = [line.split(b" ") for line in body.split(b"\n")]
                    for words in lines:
                        draw.shuffle(words)
                    body = b"\n".join(b" ".join(words) for words in lines)
                size += len(body)
                yield Record.of(body, "text/plain", f"{item.source} {turn}", score=1.0)

    records.write(grown(), folder)
    return size
