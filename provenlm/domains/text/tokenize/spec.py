"""Records of text in, a SentencePiece codec out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.sentencepiece_model import SentencePieceTokenizer


@dataclass(frozen=True)
class TextTokenizeConfig:
    """`vocabulary`: ids in all, special and single-byte ones included; `sample_bytes`: text to learn from, at most about;
    `character_coverage`: share of the text whose characters get a token of their own, the others become bytes;
    `held_out`: share of duplicate clusters kept for validation; `model`: byte pairs or unigram (Kudo, arXiv 1804.10959);
    `probes`: texts that a net will be asked about; how many records hold one is counted.
    """

    vocab_size: int
    sample_bytes: int
    character_coverage: float
    val_fraction: float
    tokenizer_type: Literal["bpe", "unigram"] = "bpe"
    contamination_prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vocab_size < 512:
            raise ValueError(f"vocabulary: at least 512 (256 are single bytes), got {self.vocab_size}")
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes: at least 1, got {self.sample_bytes}")
        if not 0.9 <= self.character_coverage <= 1:
            raise ValueError(f"character_coverage: a share from 0.9 to 1, got {self.character_coverage}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"held_out: a share from 0 to below 1, got {self.val_fraction}")


def train_tokenizer(config: TextTokenizeConfig, read_records: Callable[[], Iterable[Record]]) -> SentencePieceTokenizer:
    options = (config.vocab_size, config.character_coverage, config.sample_bytes, config.tokenizer_type)
    return fastokens_backend.attach_verified_backend(
        sentencepiece_model.train_sentencepiece_tokenizer(read_records, *options), read_records
    )


def val_fraction(config: TextTokenizeConfig) -> float:
    return config.val_fraction


def contamination_prompts(config: TextTokenizeConfig) -> Sequence[str]:
    return config.contamination_prompts


SPEC = TokenizeSpec(
    TextTokenizeConfig, train_tokenizer, sentencepiece_model.load_sentencepiece_tokenizer, val_fraction, contamination_prompts
)
