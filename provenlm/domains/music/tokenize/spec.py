"""Tokenize scores with MidiTok."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from provenlm.core.interfaces import Augmentation, TokenizeSpec
from provenlm.core.records import Record
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.music.tokenize.batch_config import MusicBatchConfig, parse_batch_config
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, load_midi_tokenizer
from provenlm.domains.music.tokenize.quantisation import MidiTokenizerConfig


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
    """Return the notes of a score on the grid, which decoding must give back."""
    return tokenizer.canonical(content)


def sequences(split: DatasetSplit, dataset: TokenDataset, train_config: Any) -> Any:
    """Return sequences of whole bars for the layout bars.

    Else None: the standard packings.
    """
    from provenlm.domains.music.tokenize.bar_batches import bar_sequences  # torch: not for the stage tokenize

    is_bars = parse_batch_config(train_config).layout == "bars"
    return bar_sequences(split, dataset, train_config.seq_len) if is_bars else None


def augmentation(dataset: TokenDataset, train_config: Any) -> Augmentation | None:
    """Return the augmentation that `train.batches.augmentation` asks for."""
    from provenlm.domains.music.tokenize.augmentation import build_augmentation  # torch: not for the stage tokenize

    config = parse_batch_config(train_config).augmentation
    return None if config is None else build_augmentation(dataset, config, train_config.seed)


SPEC = TokenizeSpec(
    MusicTokenizeConfig,
    make_tokenizer,
    load_midi_tokenizer,
    lambda config: config.val_fraction,
    batch_config_type=MusicBatchConfig,
    sequences=sequences,
    augmentation=augmentation,
    canonical=canonical,
)
