"""Deduplicate tasks that share a pair of grids in any view.

The n-grams of a task are the canonical hashes of its pairs, solutions included: rotated, mirrored and recoloured copies have the same ones. Of
two such tasks the one with the higher score is kept, so a reported task stays and its copy among the tasks to train on is dropped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from provenlm.core.interfaces import DedupeSpec
from provenlm.core.ngram_hashing import Hashes
from provenlm.core.records import Record
from provenlm.domains.grids.content.canonical import puzzle_hashes
from provenlm.domains.grids.content.puzzle import build_puzzle, decode_task, reveal_solutions

CACHED_RECORDS = 4096  # about 10 KB each; the stage reads every record several times


@dataclass(frozen=True)
class GridsDedupeConfig:
    """Configure deduplication of tasks.

    jaccard_threshold: fraction of shared pairs, of those of both tasks, from which on one of two tasks is dropped. The default is one
        shared pair of two tasks with 16 each, more than an official task has. Above 1: only tasks with equal pairs are dropped.
    """

    jaccard_threshold: float = 0.03

    def __post_init__(self) -> None:
        if not self.jaccard_threshold > 0:
            raise ValueError(f"jaccard_threshold must be > 0, got {self.jaccard_threshold}")


def pair_hashes(record: Record) -> Hashes:
    """Return the canonical hashes of the pairs of a record, solutions included."""
    return _hashes_of(record.content, json.dumps(record.metadata.get("solutions", ())))


@lru_cache(maxsize=CACHED_RECORDS)
def _hashes_of(content: bytes, solutions: str) -> Hashes:
    task = reveal_solutions(decode_task(content), json.loads(solutions))
    return puzzle_hashes(build_puzzle(task, "", "", ""))


def ngram_hashes(config: GridsDedupeConfig) -> Callable[[Record], Hashes]:
    """Build the function that hashes the pairs of a task."""
    return pair_hashes


def normalize(record: Record) -> bytes:
    """Return the sorted hashes of all pairs.

    Tasks with equal ones are exact duplicates.
    """
    return pair_hashes(record).tobytes()


SPEC = DedupeSpec(GridsDedupeConfig, normalize, ngram_hashes, lambda config: config.jaccard_threshold)
