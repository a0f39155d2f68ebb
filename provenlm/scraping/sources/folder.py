"""Read the files of a local folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provenlm.core.errors import ConfigError
from provenlm.scraping.extraction import licenses
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem, skip_reason


@dataclass(frozen=True)
class FolderSource:
    """Configure the files of a local folder as a source."""

    kind: Literal["folder"]
    path: str
    include: tuple[str, ...] = ()  # patterns relative to `path`, such as "**/*.md"; empty: all files
    exclude: tuple[str, ...] = ()
    license: str | None = None  # null: from a LICENSE file in the folder, or from the file itself


def read_folder(
    source: FolderSource, media_type_of: Callable[[str], str | None], max_bytes: int
) -> Iterator[SourceItem | DroppedItem]:
    """Yield every file in path order; symbolic links are not followed.

    Raises ConfigError if the folder does not exist.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise ConfigError(f"path must be an existing folder, got {source.path!r}")
    license_id = source.license or next(
        filter(None, map(_license_of_file, (root / name for name in sorted(licenses.LICENSE_FILES)))), ""
    )
    metadata = {"site": source.path, **({"license": license_id} if license_id else {})}
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()):
        name = path.relative_to(root).as_posix()
        url, media_type = f"{source.path.rstrip('/')}/{name}", media_type_of(name)
        content = skip_reason(name, source.include, source.exclude) or _read_file(path, media_type, max_bytes)
        if media_type is None or isinstance(content, str):
            drop = DropReason(content if isinstance(content, str) else "media-type", failed=content == "no-access")
            yield DroppedItem(url, drop)
        else:
            yield SourceItem(url, content, media_type, metadata, len(content))


def _license_of_file(path: Path) -> str:
    return licenses.license_from_text(path.read_text("utf-8", "replace")) if path.is_file() else ""


def _read_file(path: Path, media_type: str | None, max_bytes: int) -> bytes | str:
    """Read a file; return the reason instead if it is skipped."""
    if path.is_symlink() or not path.is_file():
        return "no-file"
    if media_type is None:
        return "media-type"
    try:
        return "too-large" if path.stat().st_size > max_bytes else path.read_bytes()
    except OSError:
        return "no-access"
