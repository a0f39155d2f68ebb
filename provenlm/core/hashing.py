"""Files, folders and JSON values in, SHA-256 hex digests out."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Digest of the canonical JSON of `value`: keys sorted, no spaces, UTF-8."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(paths: Iterable[Path], root: Path) -> str:
    """Digest of the names (relative to `root`) and contents of `paths`, whatever their order."""
    return sha256_json(sorted((path.relative_to(root).as_posix(), sha256_file(path)) for path in paths))


def sha256_path(path: Path) -> str:
    """Digest of a file, or of every file below a folder with its relative name. FileNotFoundError if it is neither."""
    if path.is_dir():
        return sha256_files((p for p in path.rglob("*") if p.is_file()), path)
    return sha256_file(path)
