"""Define what a domain provides to each stage.

A domain has one folder per stage: `domains/<name>/scrape/spec.py` defines `SPEC = ScrapeSpec(...)`, and so on. A stage imports, and
DVC tracks, only the code that it runs: a change to a crawler never retrains a model.
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
    """Define how a domain fetches its sources.

    `fetch(config, state_dir, progress)` yields the outcome of each URL, file or row; `state_dir` is a folder that is kept between runs.
    """

    config_type: type
    fetch: Callable[[Any, Path, ProgressReporter], Iterator[FetchResult]]


class FilterResult(NamedTuple):
    """Hold the filter's result for one record.

    `record` carries the results as metadata and, where configured, masked personal data; `drop_reason` is None for a record to score;
    `sub_scores` are the named parts of its score, each in [0, 1]; `counts` are added up over the corpus.
    """

    record: Record
    drop_reason: str | None
    sub_scores: Mapping[str, float]
    counts: Mapping[str, int]


class CountLabel(NamedTuple):
    """Describe a count of a FilterResult as a metric.

    `by_record`: also count the records that contain it.
    """

    unit: str
    description: str
    by_record: bool = False


@dataclass(frozen=True)
class FilterSpec:
    """Define how a domain filters records.

    `classify(config)` returns a function from records to results; each result depends on its record alone. Records that score below
    `min_score(config)` are dropped. `describe_count(name)` labels the metric of a count.
    """

    config_type: type
    classify: Callable[[Any], Callable[[Sequence[Record]], Sequence[FilterResult]]]
    min_score: Callable[[Any], float]
    describe_count: Callable[[str], CountLabel] = lambda name: CountLabel("occurrences", f"Occurrences of {name} in all records")


@dataclass(frozen=True)
class ParagraphDedupSpec:
    """Define how repeated paragraphs are detected and handled.

    `split` returns the byte spans of the paragraphs of a text; paragraphs with equal `normalize` are equal. A repeated paragraph is
    kept or removed: `within_document` if the first occurrence is in the same record, `across_documents` if it is in another one and
    at least `min_documents` records contain it.
    """

    split: Callable[[bytes], Sequence[tuple[int, int]]]
    normalize: Callable[[bytes], bytes]
    within_document: Literal["keep", "remove"]
    across_documents: Literal["keep", "remove"]
    min_documents: int


NO_CONTAINMENT = 2.0  # no set contains twice its members: a threshold that nothing reaches


@dataclass(frozen=True)
class DedupeSpec:
    """Define how a domain detects duplicate records.

    Records with equal `normalize(record)` are exact duplicates. `ngram_hashes(config)` returns a function from a record to the hashes
    of its n-grams; records whose n-gram sets have a Jaccard similarity of at least `jaccard_threshold(config)` are near-duplicates
    (a threshold above 1 disables the search). Records of which one contains at least `containment_threshold(config)` of the n-grams
    of the other are kept, but in one cluster, so that the split does not separate them (above 1: no search, the default).
    `paragraph_dedup(config)` is None if repeated paragraphs are not searched.
    """

    config_type: type
    normalize: Callable[[Record], bytes]
    ngram_hashes: Callable[[Any], Callable[[Record], "NDArray[np.uint64]"]]
    jaccard_threshold: Callable[[Any], float]
    paragraph_dedup: Callable[[Any], ParagraphDedupSpec | None] = lambda config: None
    containment_threshold: Callable[[Any], float] = lambda config: NO_CONTAINMENT


class Tokenizer(Protocol):
    """Convert records to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids; ids are 0 … vocab_size - 1."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Return the ids of "pad", "unk", "bos" and "eos", as far as they exist.

        All are distinct.
        """
        ...

    @property
    def token_classes(self) -> Mapping[str, "NDArray[np.int64]"]:
        """Return the ids of each class of tokens, such as Pitch; none for text."""
        ...

    def encode(self, records: Sequence[Record]) -> list["NDArray[np.uint32]"]:
        """Encode the content of each record, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> bytes:
        """Decode ids to content; special tokens are skipped."""
        ...

    def describe(self, ids: Sequence[int]) -> str:
        """Return ids as text for a reader.

        That is the decoded text, or the names of tokens where the content is not text.
        """
        ...

    def count_unknown(self, ids: "NDArray[np.uint32]") -> int:
        """Count the ids that stand for unknown characters or single bytes."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt, with the special tokens that precede a document in training."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer to `folder`."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """Change training batches at random; held-out batches never pass through it.

    `apply(batch, draws_B)` returns the batch with a variant of each sequence; `draws_B` (int64) numbers the sequences since training began.
    Equal batches and draws give equal variants, so that a resumed training continues with the same bits. `num_variants` is the number
    of variants that a sequence can have, `description` names them.
    """

    apply: Callable[[Any, "NDArray[np.int64]"], Any]
    num_variants: int
    description: str


@dataclass(frozen=True)
class NoBatchConfig:
    """Configure the batches of a domain without settings for them."""


@dataclass(frozen=True)
class TokenizeSpec:
    """Define how a domain tokenizes records.

    `train(config, open_records)` trains a tokenizer (records may be read more than once); `load(folder)` reads a saved one.
    `val_fraction(config)` is the fraction of duplicate clusters held out for validation; `contamination_prompts(config)` are prompts
    of the evaluation that are searched for in the corpus. `canonical(tokenizer, content)` returns what decoding must give back of a
    content; None: all bytes. `batch_config_type` is the type of `train.batches`, the domain's settings for training batches.
    `sequences(split, dataset, train_config)` cuts a split of a TokenDataset into a SequenceSource of the domain's own batches; None:
    the standard packings of `train.data_packing`. `augmentation(dataset, train_config)` changes training batches; None: no change.
    """

    config_type: type
    train: Callable[[Any, Callable[[], Iterable[Record]]], Tokenizer]
    load: Callable[[Path], Tokenizer]
    val_fraction: Callable[[Any], float]
    contamination_prompts: Callable[[Any], Sequence[str]] = lambda config: ()
    batch_config_type: type = NoBatchConfig
    sequences: Callable[[Any, Any, Any], Any] | None = None
    augmentation: Callable[[Any, Any], Augmentation | None] | None = None
    canonical: Callable[[Any, bytes], bytes] | None = None
