"""Define what a domain brings to each stage.

A domain has a folder for each stage that asks it: `domains/<name>/scrape/spec.py` holds `SPEC = Scraping(...)`, and so on. A stage
loads, and DVC tracks, only the code that it runs: a change to a crawler never retrains a model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ScrapeSpec:
    """`fetch(settings, state, progress)` yields what became of each address; `state` is a folder that outlives a run."""

    config_type: type
    fetch: Callable[[Any, Path, ProgressReporter], Iterator[FetchResult]]


class FilterResult(NamedTuple):
    """A record with what was found out about it as facts, masked where that was asked for; the reason to drop it, if there is one; the
    named parts of its score, each from 0 to 1; what was counted in it."""

    record: Record
    drop_reason: str | None
    sub_scores: Mapping[str, float]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class FilterSpec:
    """`judge(settings)` gives a verdict on each of some records, which depends on that record alone.

    `least(settings)` is the score below which a record is dropped.
    """

    config_type: type
    classify: Callable[[Any], Callable[[Sequence[Record]], Sequence[FilterResult]]]
    min_score: Callable[[Any], float]


@dataclass(frozen=True)
class ParagraphDedupSpec:
    """How to look for repeated blocks: `spans` cuts a body, blocks with equal `canonical` bytes are equal.

    `inside`, `across`: what to do with a block that stood before in its own record, or in another one of at least `records` in all.
    """

    split: Callable[[bytes], Sequence[tuple[int, int]]]
    normalize: Callable[[bytes], bytes]
    within_document: Literal["keep", "remove"]
    across_documents: Literal["keep", "remove"]
    min_documents: int


@dataclass(frozen=True)
class DedupeSpec:
    """`canonical(record)`: equal bytes are exact twins. `shingles(settings)`: hashes of a record's overlapping pieces.

    `threshold(settings)` is the Jaccard similarity of two shingle sets from which records are near twins; above 1 there are none.
    `blocks(settings)` says how to look for repeated blocks; None: not at all.
    """

    config_type: type
    normalize: Callable[[Record], bytes]
    ngram_hashes: Callable[[Any], Callable[[Record], "NDArray[np.uint64]"]]
    jaccard_threshold: Callable[[Any], float]
    paragraph_dedup: Callable[[Any], ParagraphDedupSpec | None] = lambda settings: None


class Tokenizer(Protocol):
    """Record to token ids and back."""

    @property
    def vocab_size(self) -> int: ...  # ids are 0 … vocabulary - 1

    @property
    def special_tokens(self) -> Mapping[str, int]: ...  # "pad", "unk", "bos", "eos": each its own id

    def encode(self, records: Sequence[Record]) -> list["NDArray[np.uint32]"]: ...  # without special tokens

    def decode(self, ids: Sequence[int]) -> bytes: ...  # the body; special tokens are left out

    def count_unknown(self, ids: "NDArray[np.uint32]") -> int: ...  # how many stand for what no learned token covers

    def encode_prompt(self, text: str) -> list[int]: ...  # ids of a prompt, special tokens as training would put them before it

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class TokenizeSpec:
    """`learn(settings, records)` makes a codec (records may be read more than once); `load(folder)` reads a saved one.

    `held_out(settings)` is the share of duplicate clusters kept for validation; `probes(settings)` are texts that a trained net will be
    asked about, which are looked for in the corpus.
    """

    config_type: type
    train: Callable[[Any, Callable[[], Iterable[Record]]], Tokenizer]
    load: Callable[[Path], Tokenizer]
    val_fraction: Callable[[Any], float]
    contamination_prompts: Callable[[Any], Sequence[str]] = lambda settings: ()
