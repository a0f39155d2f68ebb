"""A text in, its language out, told on this machine: by py3langid, which carries its model with it."""

from dataclasses import dataclass
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

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


def told(text: str) -> tuple[str, float]:
    """The code of the most likely language of `text` and how likely it is, 0 to 1; `unknown` for a text without letters."""
    beginning = text[:LOOKED_AT]
    if not any(character.isalpha() for character in beginning):
        return "unknown", 0.0
    language, chance = _identifier().classify(beginning)
    return str(language), float(chance)


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
