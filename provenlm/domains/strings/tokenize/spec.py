"""Records of strings in, a codec of their characters out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from provenlm.core.interfaces import Tokenizing
from provenlm.core.records import Record
from provenlm.tokenizers import characters
from provenlm.tokenizers.characters import CharacterCodec


@dataclass(frozen=True)
class Settings:
    """`held_out`: share of the strings kept for validation; with 0 figures on held-out text are not run.

    `end`: every string is followed by a token of its own that says so, which a net then has to write too.
    """

    held_out: float
    end: bool

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out: a share from 0 to below 1, got {self.held_out}")


def learn(settings: Settings, read: Callable[[], Iterable[Record]]) -> CharacterCodec:
    return characters.learn(read(), settings.end)


def held_out(settings: Settings) -> float:
    return settings.held_out


SPEC = Tokenizing(Settings, learn, characters.load, held_out)
