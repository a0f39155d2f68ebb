"""Files, folders and JSON values in, SHA-256 hex digests out."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_json(value: Any) -> str:
    """Digest of the canonical JSON of `value`: keys sorted, no spaces, UTF-8."""
    return of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(paths: Iterable[Path], root: Path) -> str:
    """Digest of the names (relative to `root`) and contents of `paths`, whatever their order."""
    return of_json(sorted((path.relative_to(root).as_posix(), of_file(path)) for path in paths))


def of_path(path: Path) -> str:
    """Digest of a file, or of every file below a folder with its relative name. FileNotFoundError if it is neither."""
    if path.is_dir():
        return of_files((p for p in path.rglob("*") if p.is_file()), path)
    return of_file(path)
