"""Tokenize scores with MidiTok."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.records import Record
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, MidiTokenizerConfig, load_midi_tokenizer


@dataclass(frozen=True)
class MusicTokenizeConfig:
    """Configure tokenization of scores.

    tokens: which tokens there are. val_fraction: fraction of duplicate clusters held out for validation.
    """

    tokens: MidiTokenizerConfig = field(default_factory=MidiTokenizerConfig)
    val_fraction: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be >= 0 and < 1, got {self.val_fraction}")


def make_tokenizer(config: MusicTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> MidiTokenizer:
    """Build the tokenizer; its vocabulary follows from the settings alone."""
    return MidiTokenizer(config.tokens)


def canonical(tokenizer: MidiTokenizer, content: bytes) -> bytes:
    """Return the notes of a score on the grid of the tokenizer: what decoding must give back."""
    return tokenizer.canonical(content)


SPEC = TokenizeSpec(
    MusicTokenizeConfig, make_tokenizer, load_midi_tokenizer, lambda config: config.val_fraction, canonical=canonical
)
