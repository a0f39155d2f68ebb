"""Define what a domain brings to each stage.

A domain has a folder for each stage that asks it: `domains/<name>/scrape/spec.py` holds `SPEC = Scraping(...)`, and so on. A stage
loads, and DVC tracks, only the code that it runs: a change to a crawler never retrains a model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from provenlm.core.progress import Progress
from provenlm.core.records import Fetch, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scraping:
    """`fetch(settings, state, progress)` yields what became of each address; `state` is a folder that outlives a run."""

    settings: type
    fetch: Callable[[Any, Path, Progress], Iterator[Fetch]]


class Verdict(NamedTuple):
    """A record with what was found out about it as facts, masked where that was asked for; the reason to drop it, if there is one; the
    named parts of its score, each from 0 to 1; what was counted in it."""

    record: Record
    reason: str | None
    parts: Mapping[str, float]
    found: Mapping[str, int]


@dataclass(frozen=True)
class Filtering:
    """`judge(settings)` gives a verdict on each of some records, which depends on that record alone.

    `least(settings)` is the score below which a record is dropped.
    """

    settings: type
    judge: Callable[[Any], Callable[[Sequence[Record]], Sequence[Verdict]]]
    least: Callable[[Any], float]


@dataclass(frozen=True)
class Blocks:
    """How to look for repeated blocks: `spans` cuts a body, blocks with equal `canonical` bytes are equal.

    `inside`, `across`: what to do with a block that stood before in its own record, or in another one of at least `records` in all.
    """

    spans: Callable[[bytes], Sequence[tuple[int, int]]]
    canonical: Callable[[bytes], bytes]
    inside: Literal["keep", "remove"]
    across: Literal["keep", "remove"]
    records: int


@dataclass(frozen=True)
class Deduping:
    """`canonical(record)`: equal bytes are exact twins. `shingles(settings)`: hashes of a record's overlapping pieces.

    `threshold(settings)` is the Jaccard similarity of two shingle sets from which records are near twins; above 1 there are none.
    `blocks(settings)` says how to look for repeated blocks; None: not at all.
    """

    settings: type
    canonical: Callable[[Record], bytes]
    shingles: Callable[[Any], Callable[[Record], "NDArray[np.uint64]"]]
    threshold: Callable[[Any], float]
    blocks: Callable[[Any], Blocks | None] = lambda settings: None


class Codec(Protocol):
    """Record to token ids and back."""

    @property
    def vocabulary(self) -> int: ...  # ids are 0 … vocabulary - 1

    @property
    def special(self) -> Mapping[str, int]: ...  # "pad", "unk", "bos", "eos": each its own id

    def encode(self, records: Sequence[Record]) -> list["NDArray[np.uint32]"]: ...  # without special tokens

    def decode(self, ids: Sequence[int]) -> bytes: ...  # the body; special tokens are left out

    def unlearned(self, ids: "NDArray[np.uint32]") -> int: ...  # how many stand for what no learned token covers

    def prompt(self, text: str) -> list[int]: ...  # ids of a prompt, special tokens as training would put them before it

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Tokenizing:
    """`learn(settings, records)` makes a codec (records may be read more than once); `load(folder)` reads a saved one.

    `held_out(settings)` is the share of duplicate clusters kept for validation; `probes(settings)` are texts that a trained net will be
    asked about, which are looked for in the corpus.
    """

    settings: type
    learn: Callable[[Any, Callable[[], Iterable[Record]]], Codec]
    load: Callable[[Path], Codec]
    held_out: Callable[[Any], float]
    probes: Callable[[Any], Sequence[str]] = lambda settings: ()
