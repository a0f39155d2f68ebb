"""Read the files of a local folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provenlm.core.errors import ConfigError
from provenlm.scraping.extraction import licenses
from provenlm.scraping.sources import files
from provenlm.scraping.sources.items import (
    DroppedItem,
    DropReason,
    SourceItem,
    check_sample,
    limit_items,
    matches_any,
    skip_reason,
)

# Hidden files and folders, installed packages, minified and bundled code.
DEFAULT_IGNORE = ("**/.*", "**/.*/**", "**/node_modules/**", "**/__pycache__/**", "**/*.min.js", "**/*.min.css", "**/*.map")


@dataclass(frozen=True)
class FolderSource:
    """Configure the files of a local folder as a source."""

    kind: Literal["folder"]
    path: str
    include: tuple[str, ...] = ()  # patterns relative to `path`, such as "**/*.md"; empty: all files
    exclude: tuple[str, ...] = ()
    license: str | None = None  # null: from a LICENSE file in the folder, or from the file itself
    ignore: tuple[str, ...] = DEFAULT_IGNORE  # files that nobody wrote to be read; []: none
    limit: int | None = None  # files to read, for a trial run; null: all
    sample_frac: float = 1.0  # fraction of the files to keep, chosen by a hash of their path

    def __post_init__(self) -> None:
        check_sample(self.limit, self.sample_frac)


def read_folder(
    source: FolderSource, media_type_of: Callable[[str], str | None], max_bytes: int
) -> Iterator[SourceItem | DroppedItem]:
    """Yield every file in path order.

    Symbolic links are not followed; a compressed file is decompressed; `~` is the home folder. Raises ConfigError if the folder does not exist.
    """
    root = Path(source.path).expanduser()
    if not root.is_dir():
        raise ConfigError(f"path must be an existing folder, got {source.path!r}")
    yield from limit_items(_read_files(root, source, media_type_of, max_bytes), source.limit, source.sample_frac)


def _read_files(
    root: Path, source: FolderSource, media_type_of: Callable[[str], str | None], max_bytes: int
) -> Iterator[SourceItem | DroppedItem]:
    license_id = source.license or next(
        filter(None, map(_license_of_file, (root / name for name in sorted(licenses.LICENSE_FILES)))), ""
    )
    metadata = {"site": source.path, **({"license": license_id} if license_id else {})}
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()):
        name = files.printable(path.relative_to(root).as_posix())
        url, media_type = f"{source.path.rstrip('/')}/{name}", media_type_of(files.without_compression_suffix(name))
        reason = skip_reason(name, source.include, source.exclude) or ("ignored" if matches_any(name, source.ignore) else "")
        content = reason or _read_file(path, media_type, max_bytes)
        if media_type is None or isinstance(content, str):
            reason = content if isinstance(content, str) else "media-type"
            yield DroppedItem(url, DropReason(reason, failed=reason in ("no-access", "damaged")))
        else:
            yield SourceItem(url, content, media_type, metadata, len(content))


def _license_of_file(path: Path) -> str:
    return licenses.license_from_text(path.read_text("utf-8", "replace")) if path.is_file() else ""


def _read_file(path: Path, media_type: str | None, max_bytes: int) -> bytes | str:
    """Read a file, decompressed if its suffix says so; return the reason instead if it is skipped."""
    if path.is_symlink() or not path.is_file():
        return "no-file"
    if media_type is None:
        return "media-type"
    is_compressed = files.without_compression_suffix(path.name) != path.name
    try:
        if not is_compressed:
            return "too-large" if path.stat().st_size > max_bytes else path.read_bytes()
        with path.open("rb") as file:
            content = files.decompressed(file).read(max_bytes + 1)
        return "too-large" if len(content) > max_bytes else content
    except PermissionError:
        return "no-access"
    except files.READ_ERRORS:
        return "damaged" if is_compressed else "no-access"
