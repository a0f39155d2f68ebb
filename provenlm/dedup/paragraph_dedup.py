"""Find and remove paragraphs that repeat an earlier one.

A paragraph is what the domain's ParagraphDedupSpec cuts content into. Two are equal if their normalized bytes are.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from provenlm.core.interfaces import ParagraphDedupSpec
from provenlm.core.records import Record

RepeatKind = Literal["within_document", "across_documents"]


@dataclass(frozen=True, slots=True)
class DuplicateSpan:
    """Locate a repeated paragraph and its first occurrence.

    Bytes `start` to `end` of record `row` repeat those from `original_start` of record `original_row`.
    """

    row: int
    start: int
    end: int
    original_row: int
    original_start: int
    kind: RepeatKind
    removed: bool


@dataclass(frozen=True, slots=True)
class FirstOccurrence:
    """Locate the first occurrence of a paragraph and count its records."""

    row: int
    start: int
    num_records: int


@dataclass
class ParagraphIndex:
    """Map the digests of repeated paragraphs to their first occurrences."""

    num_paragraphs: int = 0
    first_occurrences: dict[bytes, FirstOccurrence] = field(default_factory=dict)


def hash_paragraph(paragraph: bytes) -> bytes:
    """Hash a normalized paragraph to 16 bytes."""
    return hashlib.blake2b(paragraph, digest_size=16).digest()


def index_paragraphs(records: Iterable[tuple[int, Record]], spec: ParagraphDedupSpec) -> ParagraphIndex:
    """Index the paragraphs that occur more than once.

    Memory holds 32 bytes per paragraph, and the repeated ones.
    """
    digests, rows, starts = bytearray(), bytearray(), bytearray()
    for row, record in records:
        spans = spec.split(record.content)
        for start, end in spans:
            digests += hash_paragraph(spec.normalize(record.content[start:end]))
        rows += np.full(len(spans), row, np.int64).tobytes()
        starts += np.array([start for start, _ in spans], np.int64).tobytes()
    return _build_index(
        np.frombuffer(digests, "<u8").reshape(-1, 2), np.frombuffer(rows, np.int64), np.frombuffer(starts, np.int64)
    )


def _build_index(digests: NDArray[np.uint64], rows: NDArray[np.int64], starts: NDArray[np.int64]) -> ParagraphIndex:
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the first occurrence of each paragraph stays first
    sorted_digests, rows = digests[order], rows[order]
    boundaries = np.flatnonzero(np.any(sorted_digests[1:] != sorted_digests[:-1], axis=1)) + 1
    group_starts = np.concatenate([np.zeros(min(1, len(order)), np.int64), boundaries])
    group_ends = np.append(group_starts[1:], len(order))[: len(group_starts)]
    index = ParagraphIndex(num_paragraphs=len(order))
    for begin, end in zip(
        group_starts[group_ends - group_starts > 1].tolist(), group_ends[group_ends - group_starts > 1].tolist(), strict=True
    ):
        num_records = len(np.unique(rows[begin:end]))
        index.first_occurrences[sorted_digests[begin].tobytes()] = FirstOccurrence(
            int(rows[begin]), int(starts[order[begin]]), num_records
        )
    return index


def find_repeats(row: int, record: Record, index: ParagraphIndex, spec: ParagraphDedupSpec) -> Iterator[DuplicateSpan]:
    """Yield the paragraphs of `record` that repeat an earlier one.

    The earlier one is in the same record or in an earlier row.
    """
    repeated_here: set[bytes] = set()
    for start, end in spec.split(record.content):
        paragraph_hash = hash_paragraph(spec.normalize(record.content[start:end]))
        first = index.first_occurrences.get(paragraph_hash)
        if first is None or (first.row, first.start) == (row, start):
            continue
        if first.row == row or paragraph_hash in repeated_here:
            yield DuplicateSpan(row, start, end, first.row, first.start, "within_document", spec.within_document == "remove")
        elif first.num_records >= spec.min_documents:
            yield DuplicateSpan(row, start, end, first.row, first.start, "across_documents", spec.across_documents == "remove")
            if spec.across_documents == "keep":
                repeated_here.add(paragraph_hash)
        else:
            repeated_here.add(paragraph_hash)


def remove_spans(content: bytes, spans: Sequence[DuplicateSpan]) -> bytes:
    """Remove the spans marked as removed from `content`.

    The whitespace after each is removed too.
    """
    pieces, position = [], 0
    for span in spans:
        if span.removed:
            pieces.append(content[position : span.start])
            remainder = content[span.end :]
            position = len(content) - len(remainder.lstrip())
            indent = content.rfind(b"\n", span.end, position) + 1  # keep the indentation of the next line
            position = max(span.end, indent) if position < len(content) else len(content)
    return b"".join([*pieces, content[position:]]) if pieces else content
