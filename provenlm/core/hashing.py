"""Compute SHA-256 hex digests of bytes, JSON values, files and folders."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256_bytes(data: bytes) -> str:
    """Hash `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Hash the canonical JSON of `value`: sorted keys, no spaces, UTF-8."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def sha256_file(path: Path) -> str:
    """Hash the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path], root: Path) -> str:
    """Hash the names and contents of `paths`, independent of their order.

    The names are relative to `root`.
    """
    return sha256_json(sorted((path.relative_to(root).as_posix(), sha256_file(path)) for path in paths))


def sha256_path(path: Path) -> str:
    """Hash a file, or all files below a folder with their relative names.

    Raises FileNotFoundError if it is neither.
    """
    if path.is_dir():
        return sha256_files((p for p in path.rglob("*") if p.is_file()), path)
    return sha256_file(path)
