"""Identify the language of a text with py3langid.

The model is part of the package.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from provenlm.core.jit import jit
from provenlm.core.ngram_hashing import ByteArray

LidTable = NDArray[np.int32]
MAX_LID_CHARS = 4000  # more characters change the result for almost no text and cost as much again


@dataclass(frozen=True)
class LanguageFilterConfig:
    """Configure which languages to keep.

    languages: two-letter codes (ISO 639-1); empty keeps all.
    language_threshold: a language identified with a lower probability is unknown.
    """

    languages: tuple[str, ...] = ()
    language_threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.language_threshold <= 1:
            raise ValueError(f"language_threshold must be from 0 to 1, got {self.language_threshold}")
        if unknown := [code for code in self.languages if len(code) != 2 or not code.islower()]:
            raise ValueError(f"languages must be two-letter codes such as en, got {', '.join(unknown)}")

    def drop_reason(self, language: str, probability: float) -> str | None:
        """Return the drop reason of a record in another language, or None."""
        return (
            "other_language"
            if self.languages and language not in self.languages and probability >= self.language_threshold
            else None
        )


def identify_language(content: bytes) -> tuple[str, float]:
    """Identify the language of `content`: (code, probability).

    A text without letters is (`unknown`, 0).
    """
    excerpt = content[: 4 * MAX_LID_CHARS].decode("utf-8", "ignore")[:MAX_LID_CHARS]  # a character is at most 4 bytes
    if not any(character.isalpha() for character in excerpt):
        return "unknown", 0.0
    language, probability = _identifier().classify(excerpt)
    return str(language), float(probability)


@cache
def _identifier() -> LanguageIdentifier:
    return CompiledLanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class CompiledLanguageIdentifier(LanguageIdentifier):  # type: ignore[misc,unused-ignore]
    """Run py3langid with a compiled loop over the bytes.

    The loop takes most of its time. Results are bit-identical.
    """

    __slots__ = ("tables",)

    def __init__(self, nb_ptc: NDArray[np.float16], *model: Any, **options: Any) -> None:
        super().__init__(np.asarray(nb_ptc, np.float32), *model, **options)  # py3langid would convert them for each text
        self.tables = [np.asarray(table, np.int32) for table in (self.tk_nextmove, self._rowbase, self.tk_output)]

    def _raw_score(self, text: bytes) -> NDArray[np.float32]:
        features, counts = _count_features(np.frombuffer(text, np.uint8), *self.tables)
        score: NDArray[np.float32] = super()._raw_score(b"")
        return np.log1p(counts) @ self.nb_ptc[features] + self.nb_pc if len(features) else score


@jit
def _count_features(
    text: ByteArray, transitions: LidTable, row_offsets: LidTable, outputs: LidTable
) -> tuple[LidTable, NDArray[np.float32]]:
    """Count the features of the model's automaton in `text`.

    Features are in the order of their first occurrence.
    """
    num_slots = 16
    while num_slots < 2 * len(text):
        num_slots *= 2
    table = np.full(num_slots, -1, np.int32)  # open addressing; indices into `features`
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
