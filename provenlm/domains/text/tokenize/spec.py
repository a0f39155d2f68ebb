"""Records of text in, a SentencePiece codec out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from provenlm.core.interfaces import Tokenizing
from provenlm.core.records import Record
from provenlm.tokenizers import fastokens_backend, sentencepiece_model
from provenlm.tokenizers.sentencepiece_model import SentencePieceCodec


@dataclass(frozen=True)
class Settings:
    """`vocabulary`: ids in all, special and single-byte ones included; `sample_bytes`: text to learn from, at most about;
    `character_coverage`: share of the text whose characters get a token of their own, the others become bytes;
    `held_out`: share of duplicate clusters kept for validation; `model`: byte pairs or unigram (Kudo, arXiv 1804.10959);
    `probes`: texts that a net will be asked about; how many records hold one is counted.
    """

    vocabulary: int
    sample_bytes: int
    character_coverage: float
    held_out: float
    model: Literal["bpe", "unigram"] = "bpe"
    probes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vocabulary < 512:
            raise ValueError(f"vocabulary: at least 512 (256 are single bytes), got {self.vocabulary}")
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes: at least 1, got {self.sample_bytes}")
        if not 0.9 <= self.character_coverage <= 1:
            raise ValueError(f"character_coverage: a share from 0.9 to 1, got {self.character_coverage}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out: a share from 0 to below 1, got {self.held_out}")


def learn(settings: Settings, read: Callable[[], Iterable[Record]]) -> SentencePieceCodec:
    given = (settings.vocabulary, settings.character_coverage, settings.sample_bytes, settings.model)
    return fastokens_backend.checked(sentencepiece_model.learn(read, *given), read)


def held_out(settings: Settings) -> float:
    return settings.held_out


def probes(settings: Settings) -> Sequence[str]:
    return settings.probes


SPEC = Tokenizing(Settings, learn, sentencepiece_model.load, held_out, probes)
