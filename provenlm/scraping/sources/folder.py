"""A folder of files in, what became of each out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from provenlm.core.errors import UserError
from provenlm.core.records import Fetch, Record
from provenlm.scraping.extraction import files, licenses
from provenlm.scraping.extraction.reader import Page


@dataclass(frozen=True)
class Folder:
    """Files below a folder of this machine: Markdown, reStructuredText, HTML, plain text, code; PDF with the extra `[pdf]`."""

    kind: Literal["folder"]
    at: str
    include: tuple[str, ...]  # path patterns below `at`, such as "**/*.md"; none: all files
    exclude: tuple[str, ...]
    licence: str | None  # null: what the files say, or a LICENSE beside them


def fetch(source: Folder, limit: int) -> Iterator[Fetch]:
    """Every file, in the order of their paths; links are not followed. `limit`: bytes of a file. UserError if there is no such folder."""
    root = Path(source.at)
    if not root.is_dir():
        raise UserError(f"at: {source.at!r} is no folder here")
    known = source.licence or next(filter(None, (_licence(root / name) for name in sorted(licenses.NAMES))), "")
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()):
        name = path.relative_to(root).as_posix()
        yield judged(f"{source.at.rstrip('/')}/{name}", name, _body(path, name, source, limit), source.at, known)


def _licence(path: Path) -> str:
    return licenses.of_text(path.read_text("utf-8", "replace")) if path.is_file() else ""


def _body(path: Path, name: str, source: Folder, limit: int) -> bytes | str:
    """What the file holds, or why it is not read."""
    if reason := files.reason_against(name, source.include, source.exclude):
        return reason
    if path.is_symlink() or not path.is_file():
        return "no-file"
    try:
        return "too-large" if path.stat().st_size > limit else path.read_bytes()
    except OSError:
        return "no-access"


def judged(url: str, name: str, body: bytes | str, site: str, licence: str, **facts: str) -> Fetch:
    """What becomes of the file `name` with `body`, or of one that was left alone for a reason."""
    page = files.read(name, body) if isinstance(body, bytes) else body
    size, came = (len(body), datetime.now(UTC).isoformat(timespec="seconds")) if isinstance(body, bytes) else (0, "")
    if isinstance(page, Page) and not page.reason and page.body.strip():
        said = {"site": site, **({"licence": licence} if licence else {}), **facts, **page.facts}
        return Fetch(url, "record", "", None, size, 0, 0.0, Record.of(page.body, page.media_type, url, **said), came)
    reason = page if isinstance(page, str) else page.reason or "empty"
    state: Literal["refused", "failed"] = "failed" if reason in ("unreadable", "no-access", "pdf-damaged") else "refused"
    return Fetch(url, state, reason, None, size, 0, 0.0, None)
