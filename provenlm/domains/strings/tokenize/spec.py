"""Records of strings in, a codec of their characters out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.records import Record
from provenlm.tokenizers import characters
from provenlm.tokenizers.characters import CharacterTokenizer


@dataclass(frozen=True)
class StringsTokenizeConfig:
    """`held_out`: share of the strings kept for validation; with 0 figures on held-out text are not run.

    `end`: every string is followed by a token of its own that says so, which a net then has to write too.
    """

    val_fraction: float
    add_eos: bool

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"held_out: a share from 0 to below 1, got {self.val_fraction}")


def train_tokenizer(config: StringsTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> CharacterTokenizer:
    return characters.train_character_tokenizer(read_records(), config.add_eos)


def val_fraction(config: StringsTokenizeConfig) -> float:
    return config.val_fraction


SPEC = TokenizeSpec(StringsTokenizeConfig, train_tokenizer, characters.load_character_tokenizer, val_fraction)
