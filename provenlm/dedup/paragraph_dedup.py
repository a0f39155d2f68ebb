"""Records in; out, which of their blocks stood before, in the same record or in others, each with its original.

A block is what a domain cuts a body into: a paragraph of text, say. Two are equal when their canonical bytes are.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core.interfaces import Blocks
from provenlm.core.records import Record

Kind = Literal["inside", "across"]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Bytes `start` to `end` of the record in `row` repeat those from `of_start` of the record in `of`, which stay."""

    row: int
    start: int
    end: int
    of: int
    of_start: int
    kind: Kind
    removed: bool


@dataclass(frozen=True, slots=True)
class Original:
    """The first place of a block that repeats, and in how many records it stands."""

    row: int
    start: int
    records: int


@dataclass
class Repeats:
    """What `survey` found: the originals of the blocks that repeat, by digest. `blocks`: how many there are in all."""

    blocks: int = 0
    originals: dict[bytes, Original] = field(default_factory=dict)


def digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=16).digest()


def survey(records: Iterable[tuple[int, Record]], asked: Blocks) -> Repeats:
    """Find the blocks that stand more than once. In memory: 32 bytes a block, and the repeated ones."""
    digests, rows, starts = bytearray(), bytearray(), bytearray()
    for row, record in records:
        spans = asked.spans(record.body)
        for start, end in spans:
            digests += digest(asked.canonical(record.body[start:end]))
        rows += np.full(len(spans), row, np.int64).tobytes()
        starts += np.array([start for start, _ in spans], np.int64).tobytes()
    return _repeats(np.frombuffer(digests, "<u8").reshape(-1, 2), np.frombuffer(rows, np.int64), np.frombuffer(starts, np.int64))


def _repeats(digests: NDArray[np.uint64], rows: NDArray[np.int64], starts: NDArray[np.int64]) -> Repeats:
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the first place of each block stays the first
    ordered, rows = digests[order], rows[order]
    fresh = np.flatnonzero(np.any(ordered[1:] != ordered[:-1], axis=1)) + 1
    begins = np.concatenate([np.zeros(min(1, len(order)), np.int64), fresh])
    ends = np.append(begins[1:], len(order))[: len(begins)]
    found = Repeats(blocks=len(order))
    for begin, end in zip(begins[ends - begins > 1].tolist(), ends[ends - begins > 1].tolist(), strict=True):
        records = len(np.unique(rows[begin:end]))
        found.originals[ordered[begin].tobytes()] = Original(int(rows[begin]), int(starts[order[begin]]), records)
    return found


def repeats(row: int, record: Record, found: Repeats, asked: Blocks) -> Iterator[Repeat]:
    """The blocks of `record` that stood before, in its own text or in those of earlier rows."""
    own: set[bytes] = set()
    for start, end in asked.spans(record.body):
        name = digest(asked.canonical(record.body[start:end]))
        original = found.originals.get(name)
        if original is None or (original.row, original.start) == (row, start):
            continue
        if original.row == row or name in own:
            yield Repeat(row, start, end, original.row, original.start, "inside", asked.inside == "remove")
        elif original.records >= asked.records:
            yield Repeat(row, start, end, original.row, original.start, "across", asked.across == "remove")
            if asked.across == "keep":
                own.add(name)
        else:
            own.add(name)


def without(body: bytes, gone: Sequence[Repeat]) -> bytes:
    """`body` less its removed blocks and the whitespace behind each."""
    kept, place = [], 0
    for repeat in gone:
        if repeat.removed:
            kept.append(body[place : repeat.start])
            rest = body[repeat.end :]
            place = len(body) - len(rest.lstrip())
            indent = body.rfind(b"\n", repeat.end, place) + 1  # the indentation of what follows stays with it
            place = max(repeat.end, indent) if place < len(body) else len(body)
    return b"".join([*kept, body[place:]]) if kept else body
