"""Read the files of a git commit without a checkout.

No filter runs, no link is followed.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provenlm.core import hashing
from provenlm.core.errors import ConfigError, DataError
from provenlm.scraping.extraction import licenses
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem, check_sample, limit_items, skip_reason

# The repository and its server may only send objects, at a minimum speed.
GIT_CONFIG = (
    "protocol.ext.allow=never",
    "core.hooksPath=/dev/null",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "gc.auto=0",
)
LINK_MODE, FILE_TYPE = "120000", "blob"


@dataclass(frozen=True)
class GitSource:
    """Configure the files of one commit as a source; needs the git program."""

    kind: Literal["git"]
    url: str  # a URL that git can fetch from, or a local folder
    ref: str = "HEAD"  # branch, tag or commit; HEAD: the default branch
    include: tuple[str, ...] = ()  # path patterns, such as "docs/**/*.md"; empty: all files
    exclude: tuple[str, ...] = ()
    license: str | None = None  # null: from the LICENSE of the repository, or from the file itself
    limit: int | None = None  # files to read, for a trial run; null: all
    sample_frac: float = 1.0  # fraction of the files to keep, chosen by a hash of their path

    def __post_init__(self) -> None:
        check_sample(self.limit, self.sample_frac)
        if not self.url or self.url.startswith("-"):
            raise ValueError(f"url must be the URL or folder of a repository, got {self.url!r}")
        if not self.ref or self.ref.startswith("-"):
            raise ValueError(f"ref must be a branch, tag or commit, got {self.ref!r}")


def read_git(
    source: GitSource, media_type_of: Callable[[str], str | None], state_dir: Path, max_bytes: int, from_cache: bool
) -> Iterator[SourceItem | DroppedItem]:
    """Yield every file of a commit in tree order.

    `state_dir` keeps the objects, so that later only new ones are fetched. Raises DataError if git fails.
    """
    items = _read_commit(source, media_type_of, state_dir, max_bytes, from_cache)
    yield from limit_items(items, source.limit, source.sample_frac)


def _read_commit(
    source: GitSource, media_type_of: Callable[[str], str | None], state_dir: Path, max_bytes: int, from_cache: bool
) -> Iterator[SourceItem | DroppedItem]:
    folder = Path(source.url) if Path(source.url).is_dir() else state_dir / f"{hashing.sha256_bytes(source.url.encode())[:16]}.git"
    ref = source.ref if folder == Path(source.url) else "refs/provenlm/head"
    if folder != Path(source.url) and not (from_cache and (folder / "HEAD").exists()):
        _fetch_commit(source, folder)
    commit = _run_git(folder, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
    tree = [
        line.split("\t", 1)
        for line in _run_git(folder, "ls-tree", "-r", "-l", "-z", commit).decode("utf-8", "replace").split("\0")
        if line
    ]
    with _ObjectReader(folder) as objects:
        tree_entries = [(path, *fields.split()) for fields, path in tree]
        texts = (
            objects.read(blob).decode("utf-8", "replace")
            for path, _, object_type, blob, _ in tree_entries
            if object_type == FILE_TYPE and path in licenses.LICENSE_FILES
        )
        license_id = source.license or next(filter(None, map(licenses.license_from_text, texts)), "")
        metadata = {"site": source.url, **({"license": license_id} if license_id else {})}
        for path, mode, object_type, blob, size in tree_entries:
            url, media_type = f"{source.url}#{path}", media_type_of(path)
            reason = skip_reason(path, source.include, source.exclude) or _object_skip_reason(mode, object_type, size, max_bytes)
            if reason or media_type is None:
                yield DroppedItem(url, DropReason(reason or "media-type"))
            else:
                content = objects.read(blob)
                yield SourceItem(url, content, media_type, {**metadata, "blob": blob}, len(content))


def _object_skip_reason(mode: str, object_type: str, size: str, max_bytes: int) -> str:
    if object_type != FILE_TYPE or mode == LINK_MODE:
        return "submodule" if object_type != FILE_TYPE else "no-file"
    return "too-large" if int(size) > max_bytes else ""


def _fetch_commit(source: GitSource, folder: Path) -> None:
    """Fetch one commit without history; remove lock files of a killed fetch first."""
    if not (folder / "HEAD").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run_git(folder, "init", "--quiet", "--bare")
    for lock in folder.rglob("*.lock"):
        lock.unlink()
    _run_git(
        folder, "fetch", "--quiet", "--depth", "1", "--no-tags", "--force", "--", source.url, f"{source.ref}:refs/provenlm/head"
    )


def _git_command(folder: Path, *words: str) -> list[str]:
    return ["git", "-C", str(folder), *(word for setting in GIT_CONFIG for word in ("-c", setting)), *words]


def _git_environment() -> dict[str, str]:
    return {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def _run_git(folder: Path, *words: str) -> bytes:
    """Run git and return its output.

    Raises DataError with the last line of stderr if it fails.
    """
    try:
        completed = subprocess.run(
            _git_command(folder, *words), env=_git_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise ConfigError("kind: a git source needs the git program, which is not installed") from None
    if completed.returncode:
        messages = completed.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DataError(f"url: git {words[0]}: {messages[-1] if messages else f'exit status {completed.returncode}'}")
    return completed.stdout


class _ObjectReader:
    """Read objects of a repository through one `git cat-file` process."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            _git_command(folder, "cat-file", "--batch"), env=_git_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "_ObjectReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        with suppress(OSError):
            self.process.communicate()

    def read(self, blob: str) -> bytes:
        """Read one object. Raises DataError if it is missing: the repository is damaged."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{blob}\n".encode())
        self.process.stdin.flush()
        header = self.process.stdout.readline().split()
        if len(header) != 3:
            raise DataError(f"url: object {blob} is missing or damaged in the repository")
        return self.process.stdout.read(int(header[2]) + 1)[:-1]
