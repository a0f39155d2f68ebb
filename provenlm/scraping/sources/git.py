"""A git repository in, what became of each of its files out. Nothing is ever checked out: no filter runs, no link is followed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provenlm.core import hashing
from provenlm.core.errors import UserError
from provenlm.core.records import Fetch
from provenlm.scraping.extraction import files as documents
from provenlm.scraping.extraction import licenses
from provenlm.scraping.sources.folder import judged

# What a repository or its server may make our git do: nothing but send objects, and not too slowly.
GUARD = ("protocol.ext.allow=never", "core.hooksPath=/dev/null", "http.lowSpeedLimit=1000", "http.lowSpeedTime=60", "gc.auto=0")
LINK, FILE = "120000", "blob"


@dataclass(frozen=True)
class Git:
    """The files of one commit of a repository, by the git program."""

    kind: Literal["git"]
    at: str  # an address that git can fetch from, or a folder of this machine
    ref: str  # a branch, tag or commit; HEAD: the default branch
    include: tuple[str, ...]  # path patterns, such as "docs/**/*.md"; none: all files
    exclude: tuple[str, ...]
    licence: str | None  # null: what the files say, or the LICENSE of the repository

    def __post_init__(self) -> None:
        if not self.at or not self.ref or self.at.startswith("-") or self.ref.startswith("-"):
            raise ValueError("at and ref: name a repository and a branch, tag or commit")


def fetch(source: Git, state: Path, limit: int, offline: bool) -> Iterator[Fetch]:
    """Every file in the order of git's tree. `state` keeps what was fetched, so that the next time only what is new is sent."""
    folder = Path(source.at) if Path(source.at).is_dir() else state / f"{hashing.of_bytes(source.at.encode())[:16]}.git"
    ref = source.ref if folder == Path(source.at) else "refs/provenlm/head"
    if folder != Path(source.at) and not (offline and (folder / "HEAD").exists()):
        _bring(source, folder)
    commit = _git(folder, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
    tree = [
        line.split("\t", 1)
        for line in _git(folder, "ls-tree", "-r", "-l", "-z", commit).decode("utf-8", "replace").split("\0")
        if line
    ]
    with _Objects(folder) as objects:
        files = [(path, *said.split()) for said, path in tree]
        texts = (
            objects.read(blob).decode("utf-8", "replace")
            for path, _, kind, blob, _ in files
            if kind == FILE and path in licenses.NAMES
        )
        known = source.licence or next(filter(None, map(licenses.of_text, texts)), "")
        for path, mode, kind, blob, size in files:
            reason = documents.reason_against(path, source.include, source.exclude) or _unfit(mode, kind, size, limit)
            yield judged(f"{source.at}#{path}", path, reason or objects.read(blob), source.at, known, blob=blob)


def _unfit(mode: str, kind: str, size: str, limit: int) -> str:
    if kind != FILE or mode == LINK:
        return "submodule" if kind != FILE else "no-file"
    return "too-large" if int(size) > limit else ""


def _bring(source: Git, folder: Path) -> None:
    """Fetch the one commit, without history. What a killed fetch locked is unlocked: nobody else works here."""
    if not (folder / "HEAD").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _git(folder, "init", "--quiet", "--bare")
    for lock in folder.rglob("*.lock"):
        lock.unlink()
    _git(folder, "fetch", "--quiet", "--depth", "1", "--no-tags", "--force", "--", source.at, f"{source.ref}:refs/provenlm/head")


def _command(folder: Path, *words: str) -> list[str]:
    return ["git", "-C", str(folder), *(word for setting in GUARD for word in ("-c", setting)), *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def _git(folder: Path, *words: str) -> bytes:
    """What git says. UserError with its last line if it does not succeed."""
    try:
        done = subprocess.run(
            _command(folder, *words), env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise UserError("a git source needs the git program") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(f"at: git {words[0]}: {said[-1] if said else f'ended with {done.returncode}'}")
    return done.stdout


class _Objects:
    """The contents of a repository by their ids, from one process."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            _command(folder, "cat-file", "--batch"), env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "_Objects":
        return self

    def __exit__(self, *of_an_error: object) -> None:
        self.process.kill()
        with suppress(OSError):
            self.process.communicate()

    def read(self, blob: str) -> bytes:
        """UserError where the object is not there: the repository is damaged."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{blob}\n".encode())
        self.process.stdin.flush()
        said = self.process.stdout.readline().split()
        if len(said) != 3:
            raise UserError(f"at: object {blob} is missing or damaged in the repository")
        return self.process.stdout.read(int(said[2]) + 1)[:-1]
