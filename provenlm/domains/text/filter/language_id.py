"""A text in, its language out, told on this machine: by py3langid, which carries its model with it."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import ByteArray

LidTable = NDArray[np.int32]
MAX_LID_CHARS = 4000  # characters from the beginning; more of them change the verdict on almost no text and cost as much again


@dataclass(frozen=True)
class LanguageFilterConfig:
    """`keep`: two-letter codes (ISO 639-1); none: all. `least`: a language that is less sure than this is unknown."""

    languages: tuple[str, ...]
    language_threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.language_threshold <= 1:
            raise ValueError(f"least: a chance from 0 to 1, got {self.language_threshold}")
        if unknown := [code for code in self.languages if len(code) != 2 or not code.islower()]:
            raise ValueError(f"keep: two-letter codes such as en, got {', '.join(unknown)}")

    def drop_reason(self, language: str, probability: float) -> str | None:
        """Why a record goes: its language is surely not one of those to keep."""
        return (
            "other_language"
            if self.languages and language not in self.languages and probability >= self.language_threshold
            else None
        )


def identify_language(content: bytes) -> tuple[str, float]:
    """The code of the most likely language of `body`, UTF-8, and how likely it is, 0 to 1; `unknown` for a text without letters."""
    excerpt = content[: 4 * MAX_LID_CHARS].decode("utf-8", "ignore")[:MAX_LID_CHARS]  # a character is at most 4 bytes
    if not any(character.isalpha() for character in excerpt):
        return "unknown", 0.0
    language, probability = _identifier().classify(excerpt)
    return str(language), float(probability)


@cache
def _identifier() -> LanguageIdentifier:
    return CompiledLanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class CompiledLanguageIdentifier(LanguageIdentifier):  # type: ignore[misc,unused-ignore]
    """py3langid with its walk over the bytes compiled, which takes most of its time; what it says is the same to the last bit."""

    __slots__ = ("tables",)

    def __init__(self, nb_ptc: NDArray[np.float16], *model: Any, **options: Any) -> None:
        super().__init__(np.asarray(nb_ptc, np.float32), *model, **options)  # as they are made for each text otherwise
        self.tables = [np.asarray(table, np.int32) for table in (self.tk_nextmove, self._rowbase, self.tk_output)]

    def _raw_score(self, text: bytes) -> NDArray[np.float32]:
        features, counts = _count_features(np.frombuffer(text, np.uint8), *self.tables)
        score: NDArray[np.float32] = super()._raw_score(b"")
        return np.log1p(counts) @ self.nb_ptc[features] + self.nb_pc if len(features) else score


@jit
def _count_features(
    text: ByteArray, transitions: LidTable, row_offsets: LidTable, outputs: LidTable
) -> tuple[LidTable, NDArray[np.float32]]:
    """The features of the model's automaton that `text` passes, in the order of first sight, and how often."""
    num_slots = 16
    while num_slots < 2 * len(text):
        num_slots *= 2
    table = np.full(num_slots, -1, np.int32)  # open, of places in `found`
    features, counts, num_features, state = np.empty(len(text), np.int32), np.zeros(len(text), np.float32), 0, 0
    for byte in text:
        state = transitions[row_offsets[state] + byte]
        feature_id = outputs[state]
        if feature_id >= 0:
            slot = feature_id & (num_slots - 1)
            while table[slot] >= 0 and features[table[slot]] != feature_id:
                slot = (slot + 1) & (num_slots - 1)
            if table[slot] < 0:
                table[slot], features[num_features], num_features = num_features, feature_id, num_features + 1
            counts[table[slot]] += 1
    return features[:num_features], counts[:num_features]
