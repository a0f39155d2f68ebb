"""Write and read examples: content that a person can look at or play."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenlm.core import io
from provenlm.core.errors import DataError

INDEX_FILE = "examples.json"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
SUFFIX = re.compile(r"\.[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Example:
    """Hold one piece of content in one or several formats.

    - `name`: the stem of its files, of lower-case letters, digits and hyphens.
    - `group`: the heading under which it is shown.
    - `title`: what it is; a reader sees it beside the content.
    - `is_generated`: whether a model made it; false for real content.
    - `pair`: the number of the blind pair that it belongs to; 0 for an example that is shown with its title.
    - `files`: its content in every format by suffix, such as ".mid", ".svg" and ".wav".
    """

    name: str
    group: str
    title: str
    is_generated: bool
    pair: int
    files: Mapping[str, bytes]


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write the files of examples to `folder` and list them in `examples.json`.

    Raises ValueError for a name or suffix that is no part of a file name, for a name twice, and for a blind pair that is not one
    generated and one real example.
    """
    names = [example.name for example in examples]
    if len(set(names)) < len(names):
        raise ValueError(
            f"examples: names must be unique, got {sorted(name for name in set(names) if names.count(name) > 1)[0]!r} twice"
        )
    for example in examples:
        if not NAME.fullmatch(example.name) or not all(SUFFIX.fullmatch(suffix) for suffix in example.files):
            raise ValueError(f"examples: name and suffixes must match {NAME.pattern} and {SUFFIX.pattern}, got {example.name!r}")
    for number in {example.pair for example in examples} - {0}:
        kinds = sorted(example.is_generated for example in examples if example.pair == number)
        if kinds != [False, True]:
            raise ValueError(f"examples: pair {number} must be one generated and one real example, got {len(kinds)} examples")
    for example in examples:
        for suffix, content in example.files.items():
            io.write_bytes(folder / f"{example.name}{suffix}", content)
    rows = [
        {
            "name": example.name,
            "group": example.group,
            "title": example.title,
            "is_generated": example.is_generated,
            "pair": example.pair,
            "suffixes": list(example.files),
        }
        for example in examples
    ]
    io.write_json(folder / INDEX_FILE, rows)


def read_examples(folder: Path) -> list[Example]:
    """Read the examples in `folder`; none if it has no `examples.json`.

    Raises DataError if the list is damaged or a file is missing.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        return []
    try:
        examples = []
        for row in json.loads(index.read_text(encoding="utf-8")):
            suffixes = row.pop("suffixes")
            examples.append(Example(**row, files={suffix: (folder / f"{row['name']}{suffix}").read_bytes() for suffix in suffixes}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index.as_posix()}: not a readable list of examples: {error}; run validate again") from None
    return examples
