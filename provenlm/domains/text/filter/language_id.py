"""A text in, its language out, told on this machine: by py3langid, which carries its model with it."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from provenlm.core.jit import compiled
from provenlm.core.ngram_hashing import Bytes

Table = NDArray[np.int32]
LOOKED_AT = 4000  # characters from the beginning; more of them change the verdict on almost no text and cost as much again


@dataclass(frozen=True)
class Languages:
    """`keep`: two-letter codes (ISO 639-1); none: all. `least`: a language that is less sure than this is unknown."""

    keep: tuple[str, ...]
    least: float

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"least: a chance from 0 to 1, got {self.least}")
        if unknown := [code for code in self.keep if len(code) != 2 or not code.islower()]:
            raise ValueError(f"keep: two-letter codes such as en, got {', '.join(unknown)}")

    def reason(self, language: str, chance: float) -> str | None:
        """Why a record goes: its language is surely not one of those to keep."""
        return "other_language" if self.keep and language not in self.keep and chance >= self.least else None


def told(body: bytes) -> tuple[str, float]:
    """The code of the most likely language of `body`, UTF-8, and how likely it is, 0 to 1; `unknown` for a text without letters."""
    beginning = body[: 4 * LOOKED_AT].decode("utf-8", "ignore")[:LOOKED_AT]  # a character is at most 4 bytes
    if not any(character.isalpha() for character in beginning):
        return "unknown", 0.0
    language, chance = _identifier().classify(beginning)
    return str(language), float(chance)


@cache
def _identifier() -> LanguageIdentifier:
    return Walking.from_model_file(MODEL_FILE, norm_probs=True)


class Walking(LanguageIdentifier):  # type: ignore[misc,unused-ignore]
    """py3langid with its walk over the bytes compiled, which takes most of its time; what it says is the same to the last bit."""

    __slots__ = ("tables",)

    def __init__(self, chances: NDArray[np.float16], *model: Any, **settings: Any) -> None:
        super().__init__(np.asarray(chances, np.float32), *model, **settings)  # as they are made for each text otherwise
        self.tables = [np.asarray(table, np.int32) for table in (self.tk_nextmove, self._rowbase, self.tk_output)]

    def _raw_score(self, text: bytes) -> NDArray[np.float32]:
        features, counts = _visited(np.frombuffer(text, np.uint8), *self.tables)
        score: NDArray[np.float32] = super()._raw_score(b"")
        return np.log1p(counts) @ self.nb_ptc[features] + self.nb_pc if len(features) else score


@compiled
def _visited(text: Bytes, move: Table, row: Table, feature: Table) -> tuple[Table, NDArray[np.float32]]:
    """The features of the model's automaton that `text` passes, in the order of first sight, and how often."""
    room = 16
    while room < 2 * len(text):
        room *= 2
    table = np.full(room, -1, np.int32)  # open, of places in `found`
    found, counts, many, state = np.empty(len(text), np.int32), np.zeros(len(text), np.float32), 0, 0
    for byte in text:
        state = move[row[state] + byte]
        one = feature[state]
        if one >= 0:
            slot = one & (room - 1)
            while table[slot] >= 0 and found[table[slot]] != one:
                slot = (slot + 1) & (room - 1)
            if table[slot] < 0:
                table[slot], found[many], many = many, one, many + 1
            counts[table[slot]] += 1
    return found[:many], counts[:many]
