"""Format the entries of a new project and add them to params.yaml."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provenlm.core import io
from provenlm.core.config import load_params
from provenlm.core.errors import ConfigError

TABLES = ("corpora", "recipes", "reports")
LINE_WIDTH = 140
NESTED = ("scrape", "train", "validate", "sources")  # keys whose values get lines of their own


def format_entry(name: str, entry: Mapping[str, Any], comment: str) -> str:
    """Format an entry of a table of params.yaml, with a comment behind its name."""
    lines = [f"  {name}:{f' # {comment}' if comment else ''}"]
    for key, value in entry.items():
        lines += _format_item(key, value, 4)
    return "\n".join(lines) + "\n"


def _format_item(key: str, value: Any, indent: int) -> list[str]:
    """Format a key: on one line, or with its own keys below."""
    pad = " " * indent
    if key == "sources":
        return [f"{pad}{key}:", *(f"{pad}  - {_flow(source)}" for source in value)]
    if isinstance(value, Mapping) and value and (key in NESTED or len(_flow(value)) + indent > LINE_WIDTH):
        return [f"{pad}{key}:", *(line for name, item in value.items() for line in _format_item(name, item, indent + 2))]
    return [f"{pad}{key}: {_flow(value)}"]


def _flow(value: Any) -> str:
    """Format a value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value) and value not in ("null", "true", "false"):
        return value
    return json.dumps(value, ensure_ascii=False)


def add_entries(path: Path, entries: Mapping[str, str]) -> None:
    """Add one formatted entry to each table of params.yaml.

    Comments and order stay.

    The file is replaced only if the result can be read. Raises ConfigError.
    """
    text = path.read_text(encoding="utf-8")
    for table, entry in entries.items():
        text = _append(text, table, entry)
    trial = path.with_name(f".new-{path.name}")
    trial.write_text(text, encoding="utf-8")
    try:
        load_params(trial)
    finally:
        trial.unlink()
    io.write_text(path, text)


def _append(text: str, table: str, entry: str) -> str:
    """Insert an entry at the end of a table."""
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if re.match(rf"{table}:", line)]
    if not starts:
        raise ConfigError(f"params.yaml: must have the table {table}:, at the start of a line")
    head = lines[starts[0]]
    if re.match(rf"{table}:\s*\{{\s*\}}", head):  # an empty table
        lines[starts[0]] = f"{table}:\n"
    end = next((number for number in range(starts[0] + 1, len(lines)) if re.match(r"[^\s#]", lines[number])), len(lines))
    while end > starts[0] + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    lines[end:end] = ["\n" if end > starts[0] + 1 else "", entry]
    return "".join(lines)
