"""Records in; out, which of their blocks stood before, in the same record or in others, each with its original.

A block is what a domain cuts a body into: a paragraph of text, say. Two are equal when their canonical bytes are.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core.interfaces import ParagraphDedupSpec
from provenlm.core.records import Record

DuplicateKind = Literal["inside", "across"]


@dataclass(frozen=True, slots=True)
class DuplicateSpan:
    """Bytes `start` to `end` of the record in `row` repeat those from `of_start` of the record in `of`, which stay."""

    row: int
    start: int
    end: int
    original_row: int
    original_start: int
    kind: DuplicateKind
    removed: bool


@dataclass(frozen=True, slots=True)
class FirstOccurrence:
    """The first place of a block that repeats, and in how many records it stands."""

    row: int
    start: int
    num_records: int


@dataclass
class ParagraphIndex:
    """What `survey` found: the originals of the blocks that repeat, by digest. `blocks`: how many there are in all."""

    num_blocks: int = 0
    first_occurrences: dict[bytes, FirstOccurrence] = field(default_factory=dict)


def hash_block(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=16).digest()


def index_paragraphs(records: Iterable[tuple[int, Record]], config: ParagraphDedupSpec) -> ParagraphIndex:
    """Find the blocks that stand more than once. In memory: 32 bytes a block, and the repeated ones."""
    digests, rows, starts = bytearray(), bytearray(), bytearray()
    for row, record in records:
        spans = config.split(record.content)
        for start, end in spans:
            digests += hash_block(config.normalize(record.content[start:end]))
        rows += np.full(len(spans), row, np.int64).tobytes()
        starts += np.array([start for start, _ in spans], np.int64).tobytes()
    return _build_index(
        np.frombuffer(digests, "<u8").reshape(-1, 2), np.frombuffer(rows, np.int64), np.frombuffer(starts, np.int64)
    )


def _build_index(digests: NDArray[np.uint64], rows: NDArray[np.int64], starts: NDArray[np.int64]) -> ParagraphIndex:
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the first place of each block stays the first
    sorted_digests, rows = digests[order], rows[order]
    boundaries = np.flatnonzero(np.any(sorted_digests[1:] != sorted_digests[:-1], axis=1)) + 1
    group_starts = np.concatenate([np.zeros(min(1, len(order)), np.int64), boundaries])
    group_ends = np.append(group_starts[1:], len(order))[: len(group_starts)]
    index = ParagraphIndex(num_blocks=len(order))
    for begin, end in zip(
        group_starts[group_ends - group_starts > 1].tolist(), group_ends[group_ends - group_starts > 1].tolist(), strict=True
    ):
        num_records = len(np.unique(rows[begin:end]))
        index.first_occurrences[sorted_digests[begin].tobytes()] = FirstOccurrence(
            int(rows[begin]), int(starts[order[begin]]), num_records
        )
    return index


def find_repeats(row: int, record: Record, index: ParagraphIndex, config: ParagraphDedupSpec) -> Iterator[DuplicateSpan]:
    """The blocks of `record` that stood before, in its own text or in those of earlier rows."""
    repeated_here: set[bytes] = set()
    for start, end in config.split(record.content):
        block_hash = hash_block(config.normalize(record.content[start:end]))
        first = index.first_occurrences.get(block_hash)
        if first is None or (first.row, first.start) == (row, start):
            continue
        if first.row == row or block_hash in repeated_here:
            yield DuplicateSpan(row, start, end, first.row, first.start, "inside", config.within_document == "remove")
        elif first.num_records >= config.min_documents:
            yield DuplicateSpan(row, start, end, first.row, first.start, "across", config.across_documents == "remove")
            if config.across_documents == "keep":
                repeated_here.add(block_hash)
        else:
            repeated_here.add(block_hash)


def remove_spans(content: bytes, spans: Sequence[DuplicateSpan]) -> bytes:
    """`body` less its removed blocks and the whitespace behind each."""
    pieces, position = [], 0
    for span in spans:
        if span.removed:
            pieces.append(content[position : span.start])
            remainder = content[span.end :]
            position = len(content) - len(remainder.lstrip())
            indent = content.rfind(b"\n", span.end, position) + 1  # the indentation of what follows stays with it
            position = max(span.end, indent) if position < len(content) else len(content)
    return b"".join([*pieces, content[position:]]) if pieces else content
