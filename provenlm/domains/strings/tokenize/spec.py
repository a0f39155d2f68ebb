"""Train character tokenizers on strings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.records import Record
from provenlm.tokenizers import characters
from provenlm.tokenizers.characters import CharacterTokenizer


@dataclass(frozen=True)
class StringsTokenizeConfig:
    """Configure tokenization of strings.

    val_fraction: fraction of the strings held out for validation; with 0 there are no validation metrics.
    add_eos: append an end-of-string token to every string.
    """

    val_fraction: float = 0.0
    add_eos: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be >= 0 and < 1, got {self.val_fraction}")


def train_tokenizer(config: StringsTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> CharacterTokenizer:
    """Train a tokenizer whose tokens are the characters of the strings."""
    return characters.train_character_tokenizer(read_records(), config.add_eos)


def val_fraction(config: StringsTokenizeConfig) -> float:
    """Return the fraction of strings held out for validation."""
    return config.val_fraction


SPEC = TokenizeSpec(StringsTokenizeConfig, train_tokenizer, characters.load_character_tokenizer, val_fraction)
