"""Read the files of a local folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from provenlm.core.errors import ConfigError
from provenlm.core.records import FetchResult, Record
from provenlm.scraping.extraction import files, licenses
from provenlm.scraping.extraction.reader import ExtractedDocument


@dataclass(frozen=True)
class FolderSource:
    """The files of a local folder.

    Markdown, reStructuredText, HTML, plain text and code; PDF with the extra `[pdf]`.
    """

    kind: Literal["folder"]
    path: str
    include: tuple[str, ...]  # patterns relative to `path`, such as "**/*.md"; empty: all files
    exclude: tuple[str, ...]
    license: str | None  # null: from the SPDX header of a file, or from a LICENSE file in the folder


def fetch_folder(source: FolderSource, max_bytes: int) -> Iterator[FetchResult]:
    """Yield the result of every file in path order; symbolic links are not followed.

    Raises ConfigError if the folder does not exist.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise ConfigError(f"path must be an existing folder, got {source.path!r}")
    license_id = source.license or next(
        filter(None, (_license_of_file(root / name) for name in sorted(licenses.LICENSE_FILES))), ""
    )
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()):
        name = path.relative_to(root).as_posix()
        yield classify_file(
            f"{source.path.rstrip('/')}/{name}", name, _read_file(path, name, source, max_bytes), source.path, license_id
        )


def _license_of_file(path: Path) -> str:
    return licenses.license_from_text(path.read_text("utf-8", "replace")) if path.is_file() else ""


def _read_file(path: Path, name: str, source: FolderSource, max_bytes: int) -> bytes | str:
    """Read a file; return the reason instead if it is skipped."""
    if reason := files.skip_reason(name, source.include, source.exclude):
        return reason
    if path.is_symlink() or not path.is_file():
        return "no-file"
    try:
        return "too-large" if path.stat().st_size > max_bytes else path.read_bytes()
    except OSError:
        return "no-access"


def classify_file(url: str, name: str, body: bytes | str, site: str, license_id: str, **metadata: str) -> FetchResult:
    """Return the result of one file.

    `body` is its content, or the reason why it was skipped.
    """
    document = files.extract_file(name, body) if isinstance(body, bytes) else body
    size, fetched_at = (len(body), datetime.now(UTC).isoformat(timespec="seconds")) if isinstance(body, bytes) else (0, "")
    if isinstance(document, ExtractedDocument) and not document.reason and document.content.strip():
        record_metadata = {"site": site, **({"license": license_id} if license_id else {}), **metadata, **document.metadata}
        return FetchResult(
            url,
            "record",
            "",
            None,
            size,
            0,
            0.0,
            Record.from_content(document.content, document.media_type, url, **record_metadata),
            fetched_at,
        )
    reason = document if isinstance(document, str) else document.reason or "empty"
    state: Literal["skipped", "failed"] = "failed" if reason in ("unreadable", "no-access", "pdf-damaged") else "skipped"
    return FetchResult(url, state, reason, None, size, 0, 0.0, None)
