"""Records of text in; out, the form in which two of them are equal, and the hashed shingles in which they are similar."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from provenlm.core.plugin import Deduping
from provenlm.core.record import Record
from provenlm.corpus import hashing
from provenlm.corpus.hashing import Hashes

UNSPACED = 16  # characters a word; with more the writing has no spaces between words, and characters are counted instead


@dataclass(frozen=True)
class Settings:
    """`near`: Jaccard similarity from which two records are twins; `words`, `characters`: the length of a shingle of each kind."""

    near: float
    words: int
    characters: int

    def __post_init__(self) -> None:
        if not self.near > 0:
            raise ValueError(f"near: above 0 and up to 1, or above 1 for exact twins alone; got {self.near}")
        if self.words < 1 or self.characters < 1:
            raise ValueError(f"words and characters: 1 or more, got {self.words} and {self.characters}")


def normal(record: Record) -> str:
    """The text in normal form C (Unicode annex 15), each run of whitespace one space. Bytes that are no UTF-8 stay as they are."""
    return " ".join(unicodedata.normalize("NFC", record.body.decode("utf-8", "surrogateescape")).split())


def canonical(record: Record) -> bytes:
    return normal(record).encode("utf-8", "surrogateescape")


def shingles(settings: Settings) -> Callable[[Record], Hashes]:
    """Hashes of each run of `words` words, or of `characters` characters where the writing has no spaces (Chinese, Thai …)."""

    def hashed(record: Record) -> Hashes:
        text = normal(record)
        if len(text) > UNSPACED * (text.count(" ") + 1):
            characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
            return hashing.windows(characters, settings.characters)
        return hashing.windows(hashing.words(text.encode("utf-8", "surrogateescape")), settings.words)

    return hashed


def threshold(settings: Settings) -> float:
    return settings.near


FACE = Deduping(Settings, canonical, shingles, threshold)
