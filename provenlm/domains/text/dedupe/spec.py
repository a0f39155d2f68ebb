"""Deduplicate text.

This module defines how texts are normalized, hashed to n-grams and split into paragraphs.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from provenlm.core import ngram_hashing
from provenlm.core.interfaces import DedupeSpec, ParagraphDedupSpec
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.records import Record

MAX_CHARS_PER_WORD = 16  # above this mean the script has no spaces between words, so n-grams are of characters

PARAGRAPH_BREAK = re.compile(rb"\n[ \t\r]*\n\s*")


@dataclass(frozen=True)
class ParagraphDedupConfig:
    """Configure how to treat repeated paragraphs.

    min_bytes: shorter paragraphs are ignored.
    min_documents: a paragraph repeats across documents if it occurs in at least this many records.
    within_document, across_documents: keep or remove repeats of the same record, and of earlier records. Removing the latter keeps
        passages of the training split out of the validation split (contamination).
    """

    min_bytes: int = 60
    min_documents: int = 2
    within_document: Literal["keep", "remove"] = "keep"
    across_documents: Literal["keep", "remove"] = "remove"

    def __post_init__(self) -> None:
        if self.min_bytes < 1:
            raise ValueError(f"min_bytes must be >= 1, got {self.min_bytes}")
        if self.min_documents < 2:
            raise ValueError(f"min_documents must be >= 2, got {self.min_documents}")


@dataclass(frozen=True)
class TextDedupeConfig:
    """Configure deduplication of text.

    jaccard_threshold: similarity from which on two records are near-duplicates; above 1: exact duplicates only.
    ngram_words, ngram_chars: length of an n-gram in words, and in characters for scripts without spaces.
    paragraph_dedup: how to treat repeated paragraphs; null: do not search for them.
    """

    jaccard_threshold: float = 0.7
    ngram_words: int = 5
    ngram_chars: int = 5
    paragraph_dedup: ParagraphDedupConfig | None = field(default_factory=ParagraphDedupConfig)

    def __post_init__(self) -> None:
        if not self.jaccard_threshold > 0:
            raise ValueError(f"jaccard_threshold must be > 0, got {self.jaccard_threshold}")
        if self.ngram_words < 1:
            raise ValueError(f"ngram_words must be >= 1, got {self.ngram_words}")
        if self.ngram_chars < 1:
            raise ValueError(f"ngram_chars must be >= 1, got {self.ngram_chars}")


def normalize(record: Record) -> bytes:
    """Normalize to Unicode form C (annex 15) and collapse whitespace.

    Bytes that are not UTF-8 are kept.
    """
    return normalize_bytes(record.content)


@lru_cache(maxsize=2)  # called by `normalize` and by `ngram_hashes` for each record
def normalize_bytes(content: bytes) -> bytes:
    """Normalize the bytes of a text, see `normalize`."""
    if content.isascii():
        return ngram_hashing.collapse_whitespace(content)
    text = unicodedata.normalize("NFC", content.decode("utf-8", "surrogateescape"))
    return " ".join(text.split()).encode("utf-8", "surrogateescape")


def ngram_hashes(config: TextDedupeConfig) -> Callable[[Record], Hashes]:
    """Build the function that hashes the n-grams of a record.

    They are word n-grams, or character n-grams for scripts without spaces (Chinese, Thai …).
    """

    def hash_record(record: Record) -> Hashes:
        normalized = normalize(record)
        text = normalized.decode("utf-8", "surrogateescape")
        if len(text) > MAX_CHARS_PER_WORD * (text.count(" ") + 1):
            characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
            return ngram_hashing.hash_ngrams(characters, config.ngram_chars)
        return ngram_hashing.hash_ngrams(ngram_hashing.hash_words(normalized), config.ngram_words)

    return hash_record


def jaccard_threshold(config: TextDedupeConfig) -> float:
    """Return the similarity from which on two records are near-duplicates."""
    return config.jaccard_threshold


def paragraph_rules(config: TextDedupeConfig) -> ParagraphDedupSpec | None:
    """Define paragraphs as text between blank lines.

    Returns None if repeated paragraphs are not searched for.
    """
    section = config.paragraph_dedup
    if section is None:
        return None

    def split_paragraphs(content: bytes) -> list[tuple[int, int]]:
        gaps = [(0, 0), *(match.span() for match in PARAGRAPH_BREAK.finditer(content)), (len(content), len(content))]
        return [(start, end) for (_, start), (end, _) in pairwise(gaps) if end - start >= section.min_bytes]

    return ParagraphDedupSpec(
        split_paragraphs,
        lambda paragraph: b" ".join(paragraph.split()),
        section.within_document,
        section.across_documents,
        section.min_documents,
    )


SPEC = DedupeSpec(TextDedupeConfig, normalize, ngram_hashes, jaccard_threshold, paragraph_rules)
