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
from provenlm.core.interfaces import Blocks, Deduping
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.records import Record

UNSPACED = 16  # characters a word; with more the writing has no spaces between words, and characters are counted instead


BLANK = re.compile(rb"\n[ \t\r]*\n\s*")  # between two paragraphs


@dataclass(frozen=True)
class Repeated:
    """Paragraphs of at least `bytes` that stood before in the same record (`inside`) or in others (`across`), in `records` in all."""

    bytes: int
    records: int
    inside: Literal["keep", "remove"]
    across: Literal["keep", "remove"]

    def __post_init__(self) -> None:
        if self.bytes < 1 or self.records < 2:
            raise ValueError(f"bytes: 1 or more, and records: 2 or more; got {self.bytes} and {self.records}")


@dataclass(frozen=True)
class Settings:
    """`near`: Jaccard similarity from which two records are twins; `words`, `characters`: the length of a shingle of each kind.

    `blocks`: what to do with repeated paragraphs; null: they are not looked for.
    """

    near: float
    words: int
    characters: int
    blocks: Repeated | None = None

    def __post_init__(self) -> None:
        if not self.near > 0:
            raise ValueError(f"near: above 0 and up to 1, or above 1 for exact twins alone; got {self.near}")
        if self.words < 1 or self.characters < 1:
            raise ValueError(f"words and characters: 1 or more, got {self.words} and {self.characters}")


def canonical(record: Record) -> bytes:
    """The text in normal form C (Unicode annex 15), each run of whitespace one space. Bytes that are no UTF-8 stay as they are."""
    return normal(record.body)


@lru_cache(maxsize=2)  # asked for once by `canonical` and once by `shingles`
def normal(body: bytes) -> bytes:
    if body.isascii():
        return ngram_hashing.collapse(body)
    text = unicodedata.normalize("NFC", body.decode("utf-8", "surrogateescape"))
    return " ".join(text.split()).encode("utf-8", "surrogateescape")


def shingles(settings: Settings) -> Callable[[Record], Hashes]:
    """Hashes of each run of `words` words, or of `characters` characters where the writing has no spaces (Chinese, Thai …)."""

    def hashed(record: Record) -> Hashes:
        form = canonical(record)
        text = form.decode("utf-8", "surrogateescape")
        if len(text) > UNSPACED * (text.count(" ") + 1):
            characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
            return ngram_hashing.windows(characters, settings.characters)
        return ngram_hashing.windows(ngram_hashing.words(form), settings.words)

    return hashed


def threshold(settings: Settings) -> float:
    return settings.near


def blocks(settings: Settings) -> Blocks | None:
    """Paragraphs: what lies between blank lines, of enough characters."""
    asked = settings.blocks
    if asked is None:
        return None

    def spans(body: bytes) -> list[tuple[int, int]]:
        gaps = [(0, 0), *(match.span() for match in BLANK.finditer(body)), (len(body), len(body))]
        return [(start, end) for (_, start), (end, _) in pairwise(gaps) if end - start >= asked.bytes]

    return Blocks(spans, lambda block: b" ".join(block.split()), asked.inside, asked.across, asked.records)


SPEC = Deduping(Settings, canonical, shingles, threshold, blocks)
