"""Identify the kind of a source: documents, code, a table, scores or puzzles."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provenlm.core.errors import ConfigError

TABLE_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
COMPRESSIONS = {".gz", ".zst", ".bz2", ".xz"}
SCORES = {".mid", ".midi", ".abc", ".musicxml", ".mxl"}
DOCUMENTS = {".txt", ".md", ".rst", ".html", ".htm", ".xhtml", ".pdf", ".docx", ".epub", ".ipynb", ".tex", ".adoc", ".org"}
WEB_ASSETS = (".svg", ".css", ".js", ".xpm", ".yml", ".yaml", ".map")  # beside documents they are layout, not text
MAX_JSON_BYTES = 50_000_000  # of a file that is opened to see whether it holds puzzles
MAX_FILES = 200_000


@dataclass(frozen=True)
class DetectedSource:
    """Hold the domain and the entry of one source.

    `num_bytes` is its size on this machine; None if that is not known before it is fetched.
    """

    domain: str
    section: Mapping[str, Any]
    num_bytes: int | None
    description: str


def detect_source(argument: str) -> DetectedSource:
    """Identify a source.

    Raises ConfigError if it does not exist or is of no known kind.
    """
    if argument.startswith(("http://", "https://", "git@", "ssh://", "s3://", "hf://", "pydoc:")):
        return _detect_address(argument)
    path = Path(argument).expanduser()
    if path.is_dir():
        return _detect_folder(argument, path)
    if path.is_file():
        return _detect_file(argument, path)
    raise ConfigError(f"{argument}: no such file or folder; a source is a folder, a file, a git repository or a URL")


def _detect_address(address: str) -> DetectedSource:
    """Identify a URL by its scheme and the end of its path."""
    path = urlsplit(address).path
    if address.startswith(("git@", "ssh://")) or path.endswith(".git"):
        return DetectedSource("text", {"kind": "git", "url": address}, None, "a git repository")
    kind = _table_kind(path)
    if kind is not None:
        return DetectedSource("text", {"kind": kind, "files": [address]}, None, f"a table of the kind {kind}")
    if address.startswith(("s3://", "hf://")):
        raise ConfigError(
            f"{address}: must end in one of {', '.join(TABLE_KINDS)}, with or without {', '.join(sorted(COMPRESSIONS))}"
        )
    if path.endswith((".rss", ".atom", "/feed", "/feed/", "feed.xml", "rss.xml")):
        return DetectedSource("text", {"kind": "feed", "start_urls": [address]}, None, "a feed")
    return DetectedSource("text", {"kind": "site", "start_urls": [address]}, None, "a web site")


def _detect_file(argument: str, path: Path) -> DetectedSource:
    """Identify a file by its name and, for JSON, by its content."""
    size = path.stat().st_size
    if path.name.endswith((".warc", ".warc.gz", ".warc.zst", ".wet.gz")):
        return DetectedSource("text", {"kind": "warc", "files": [argument]}, size, "a web archive")
    if path.suffix.lower() in SCORES:
        return DetectedSource("music", {"kind": "folder", "path": str(path.parent), "include": [path.name]}, size, "a score")
    if path.suffix == ".json" and size <= MAX_JSON_BYTES and (puzzles := _count_puzzles(path)):
        if path.name.endswith("_challenges.json"):
            solutions = path.with_name(path.name.replace("_challenges", "_solutions"))
            known = {"solutions": str(solutions)} if solutions.is_file() else {}
            return DetectedSource("grids", {"kind": "kaggle", "challenges": argument, **known}, size, f"{puzzles} ARC tasks")
        return DetectedSource(
            "grids", {"kind": "folder", "path": str(path.parent), "include": [path.name]}, size, f"{puzzles} ARC task"
        )
    kind = _table_kind(path.name)
    if kind is not None:
        return DetectedSource("text", {"kind": kind, "files": [argument]}, size, f"a table of the kind {kind}")
    return DetectedSource("text", {"kind": "folder", "path": str(path.parent), "include": [path.name]}, size, "a document")


def _detect_folder(argument: str, path: Path) -> DetectedSource:
    """Identify a folder by the kinds of its files, weighed by their size."""
    if (path / ".git").exists():
        size = sum(file.stat().st_size for file in _list_files(path))
        return DetectedSource("text", {"kind": "git", "url": argument}, size, "a git repository")
    files = _list_files(path)
    if not files:
        raise ConfigError(f"{argument}: holds no file; hidden files and folders do not count")
    bytes_by_suffix: Counter[str] = Counter()
    for file in files:
        bytes_by_suffix[_suffix(file)] += file.stat().st_size
    size = sum(bytes_by_suffix.values())
    section: dict[str, Any] = {"kind": "folder", "path": argument}
    num_scores = sum(_suffix(file) in SCORES for file in files)
    if 2 * num_scores > len(files):
        return DetectedSource("music", section, size, f"{num_scores:,} scores")
    puzzles = [file for file in files if file.suffix == ".json"]
    if 2 * len(puzzles) > len(files) and all(_count_puzzles(file) for file in puzzles[:5]):
        return DetectedSource("grids", section, size, f"{len(puzzles):,} ARC tasks")
    tables = {kind for file in files if (kind := _table_kind(file.name)) is not None}
    if len(tables) == 1 and all(_table_kind(file.name) for file in files):
        return DetectedSource(
            "text",
            {"kind": tables.pop(), "files": [f"{argument.rstrip('/')}/**/*{_full_suffix(files[0])}"]},
            size,
            f"{len(files):,} tables",
        )
    assets = [suffix for suffix in WEB_ASSETS if bytes_by_suffix[suffix]]
    is_documents = 2 * sum(bytes_by_suffix[suffix] for suffix in DOCUMENTS) > size - sum(
        bytes_by_suffix[suffix] for suffix in assets
    )
    if is_documents and assets:
        section["exclude"] = [f"**/*{suffix}" for suffix in assets]
        size -= sum(bytes_by_suffix[suffix] for suffix in assets)
    return DetectedSource("text", section, size, f"{len(files):,} files")


def _list_files(folder: Path) -> list[Path]:
    """List the files below a folder, without hidden ones and links."""
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in ("node_modules", "__pycache__"))
        files += [path for name in sorted(names) if not name.startswith(".") and not (path := Path(root) / name).is_symlink()]
        if len(files) > MAX_FILES:
            raise ConfigError(
                f"{folder}: holds more than {MAX_FILES:,} files; name a folder below it, or pack it as JSONL or Parquet"
            )
    return files


def _suffix(path: Path) -> str:
    """Return the suffix of a file, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return (suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS else suffixes[-1]) if suffixes else ""


def _full_suffix(path: Path) -> str:
    """Return the suffix of a table with that of its compression."""
    return "".join(path.suffixes[-2:]) if path.suffix in COMPRESSIONS else path.suffix


def _table_kind(name: str) -> str | None:
    """Return the kind of table that a file name stands for."""
    path = Path(name)
    return TABLE_KINDS.get(_suffix(path))


def _count_puzzles(path: Path) -> int:
    """Return how many ARC tasks a JSON file holds; 0 if it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return 0
    if _is_puzzle(value):
        return 1
    return len(value) if isinstance(value, dict) and value and all(map(_is_puzzle, value.values())) else 0


def _is_puzzle(value: object) -> bool:
    """Return whether a JSON value has the pairs of an ARC task."""
    if not isinstance(value, dict) or not isinstance(value.get("train"), list) or not isinstance(value.get("test"), list):
        return False
    return all(isinstance(pair, dict) and isinstance(pair.get("input"), list) for pair in (*value["train"], *value["test"]))
