"""Train SentencePiece tokenizers on text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer


@dataclass(frozen=True)
class TextTokenizeConfig:
    """Configure tokenization of text.

    vocab_size: number of token ids, special and single-byte tokens included.
    sample_bytes: approximate maximum of text to train the tokenizer on.
    character_coverage: fraction of the text whose characters get a token of their own; all others become bytes.
    val_fraction: fraction of duplicate clusters held out for validation.
    tokenizer_type: byte-pair encoding or unigram (Kudo, arXiv 1804.10959).
    contamination_prompts: texts that the model will be prompted with; records that contain one are counted.
    """

    vocab_size: int = 4096
    sample_bytes: int = 50_000_000
    character_coverage: float = 0.9995
    val_fraction: float = 0.05
    tokenizer_type: Literal["bpe", "unigram"] = "bpe"
    contamination_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vocab_size < 512:
            raise ValueError(f"vocab_size must be >= 512 (256 are single bytes), got {self.vocab_size}")
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes must be >= 1, got {self.sample_bytes}")
        if not 0.9 <= self.character_coverage <= 1:
            raise ValueError(f"character_coverage must be from 0.9 to 1, got {self.character_coverage}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be >= 0 and < 1, got {self.val_fraction}")


def train_tokenizer(config: TextTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> SentencePieceTokenizer:
    """Train a tokenizer and attach the fast encoder if it gives the same ids."""
    options = (config.vocab_size, config.character_coverage, config.sample_bytes, config.tokenizer_type)
    return fastokens_backend.attach_verified_backend(
        sentencepiece_model.train_sentencepiece_tokenizer(read_records, *options), read_records
    )


def val_fraction(config: TextTokenizeConfig) -> float:
    """Return the fraction of duplicate clusters held out for validation."""
    return config.val_fraction


def contamination_prompts(config: TextTokenizeConfig) -> Sequence[str]:
    """Return the texts to search for in the corpus."""
    return config.contamination_prompts


SPEC = TokenizeSpec(
    TextTokenizeConfig, train_tokenizer, sentencepiece_model.load_sentencepiece_tokenizer, val_fraction, contamination_prompts
)
