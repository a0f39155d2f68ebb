"""Records of text in; out, the form in which two of them are equal, and the hashed shingles in which they are similar."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from provenlm.core import ngram_hashing
from provenlm.core.interfaces import DedupeSpec, ParagraphDedupSpec
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.records import Record

MAX_CHARS_PER_WORD = 16  # characters a word; with more the writing has no spaces between words, and characters are counted instead


PARAGRAPH_BREAK = re.compile(rb"\n[ \t\r]*\n\s*")  # between two paragraphs


@dataclass(frozen=True)
class ParagraphDedupConfig:
    """Paragraphs of at least `bytes` that stood before in the same record (`inside`) or in others (`across`), in `records` in all."""

    min_bytes: int
    min_documents: int
    within_document: Literal["keep", "remove"]
    across_documents: Literal["keep", "remove"]

    def __post_init__(self) -> None:
        if self.min_bytes < 1 or self.min_documents < 2:
            raise ValueError(f"bytes: 1 or more, and records: 2 or more; got {self.min_bytes} and {self.min_documents}")


@dataclass(frozen=True)
class TextDedupeConfig:
    """`near`: Jaccard similarity from which two records are twins; `words`, `characters`: the length of a shingle of each kind.

    `blocks`: what to do with repeated paragraphs; null: they are not looked for.
    """

    jaccard_threshold: float
    ngram_words: int
    ngram_chars: int
    paragraph_dedup: ParagraphDedupConfig | None = None

    def __post_init__(self) -> None:
        if not self.jaccard_threshold > 0:
            raise ValueError(f"near: above 0 and up to 1, or above 1 for exact twins alone; got {self.jaccard_threshold}")
        if self.ngram_words < 1 or self.ngram_chars < 1:
            raise ValueError(f"words and characters: 1 or more, got {self.ngram_words} and {self.ngram_chars}")


def normalize(record: Record) -> bytes:
    """The text in normal form C (Unicode annex 15), each run of whitespace one space. Bytes that are no UTF-8 stay as they are."""
    return normalize_bytes(record.content)


@lru_cache(maxsize=2)  # asked for once by `canonical` and once by `shingles`
def normalize_bytes(content: bytes) -> bytes:
    if content.isascii():
        return ngram_hashing.collapse_whitespace(content)
    text = unicodedata.normalize("NFC", content.decode("utf-8", "surrogateescape"))
    return " ".join(text.split()).encode("utf-8", "surrogateescape")


def ngram_hashes(config: TextDedupeConfig) -> Callable[[Record], Hashes]:
    """Hashes of each run of `words` words, or of `characters` characters where the writing has no spaces (Chinese, Thai …)."""

    def hash_record(record: Record) -> Hashes:
        normalized = normalize(record)
        text = normalized.decode("utf-8", "surrogateescape")
        if len(text) > MAX_CHARS_PER_WORD * (text.count(" ") + 1):
            characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
            return ngram_hashing.hash_ngrams(characters, config.ngram_chars)
        return ngram_hashing.hash_ngrams(ngram_hashing.hash_words(normalized), config.ngram_words)

    return hash_record


def jaccard_threshold(config: TextDedupeConfig) -> float:
    return config.jaccard_threshold


def paragraph_rules(config: TextDedupeConfig) -> ParagraphDedupSpec | None:
    """Paragraphs: what lies between blank lines, of enough characters."""
    section = config.paragraph_dedup
    if section is None:
        return None

    def split_paragraphs(content: bytes) -> list[tuple[int, int]]:
        gaps = [(0, 0), *(match.span() for match in PARAGRAPH_BREAK.finditer(content)), (len(content), len(content))]
        return [(start, end) for (_, start), (end, _) in pairwise(gaps) if end - start >= section.min_bytes]

    return ParagraphDedupSpec(
        split_paragraphs,
        lambda block: b" ".join(block.split()),
        section.within_document,
        section.across_documents,
        section.min_documents,
    )


SPEC = DedupeSpec(TextDedupeConfig, normalize, ngram_hashes, jaccard_threshold, paragraph_rules)
