"""What a crawl knows, in one SQLite file that outlives it: every address with its fate, and every page's last response.

A page's fate, its response and the links found on it are one transaction, so a process killed at any moment has either not begun
a page or finished it.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from provenlm.core.errors import UserError

SCHEMA = """
create table if not exists crawls (id integer primary key, identity text not null, finished integer not null default 0);
create table if not exists addresses (
  crawl integer not null, seq integer not null, url text not null, site text not null, hops integer not null, depth integer not null,
  state text not null, reason text not null, status integer, received integer not null default 0, size integer not null default 0,
  tries integer not null default 0, seconds real not null default 0,
  primary key (crawl, seq), unique (crawl, url)) without rowid;
create table if not exists pages (
  url text primary key, etag text not null, modified text not null, content_type text not null, digest text not null,
  facts text not null, body blob not null);
"""
COLUMNS = "seq, url, site, hops, depth, state, reason, status, received, size, tries, seconds"
QUEUED = "queued"
VERSION = 1  # of the schema


@dataclass(frozen=True, slots=True)
class Address:
    """A row of the frontier; `state` is queued until its fate is known."""

    seq: int
    url: str
    site: str
    hops: int  # redirects that led here, one after the other
    depth: int  # links that led here from a start or a sitemap
    state: str
    reason: str
    status: int | None = None
    received: int = 0  # bytes of body that came over the network
    size: int = 0  # bytes of the page, received now or before
    tries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A page's last response. `digest` and `facts` are of the record made of it: facts date from when that content was first seen."""

    etag: str
    modified: str
    content_type: str
    digest: str
    facts: Mapping[str, Any]
    body: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """An address to remember: queued, or refused at sight for `reason`."""

    url: str
    site: str
    reason: str
    hops: int = 0
    depth: int = 0


class State:
    """The newest crawl of a folder: an unfinished one of the same identity is taken up again, else a new one begins."""

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "crawl.sqlite"
        try:
            self.db = sqlite3.connect(self.path, isolation_level=None)
            self.db.execute("pragma journal_mode = wal")
            self.db.execute("pragma synchronous = normal")
            if self.db.execute("pragma user_version").fetchone()[0] not in (0, VERSION):
                raise UserError(f"{self.path.as_posix()}: written by another version; delete the file to crawl afresh")
            self.db.executescript(f"{SCHEMA} pragma user_version = {VERSION};")
            self.crawl = self._begin(identity)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path.as_posix()}: {error}; delete the file to crawl afresh") from None

    def __enter__(self) -> "State":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.db.close()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All of the block or nothing of it."""
        self.db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.db.execute("rollback")
            raise
        self.db.execute("commit")

    def _begin(self, identity: str) -> int:
        row = self.db.execute("select id, identity, finished from crawls order by id desc limit 1").fetchone()
        if row and row[1] == identity and not row[2]:
            return int(row[0])
        with self._whole():  # the addresses of an older crawl go; its pages stay, for conditional requests
            self.db.execute("delete from addresses")
            made = self.db.execute("insert into crawls (identity) values (?)", (identity,)).lastrowid
        assert made is not None
        return made

    def seen(self) -> int:
        """How many addresses the crawl has seen so far."""
        return int(self.db.execute("select coalesce(max(seq) + 1, 0) from addresses where crawl = ?", (self.crawl,)).fetchone()[0])

    def taken(self) -> tuple[int, int]:
        """Pages that became records so far, and their bytes."""
        row = self.db.execute(
            "select count(*), coalesce(sum(size), 0) from addresses where crawl = ? and state = 'record'", (self.crawl,)
        ).fetchone()
        return int(row[0]), int(row[1])

    def at(self, seq: int) -> Address | None:
        """The address that was the `seq`-th to be seen."""
        row = self.db.execute(f"select {COLUMNS} from addresses where crawl = ? and seq = ?", (self.crawl, seq)).fetchone()
        return Address(*row) if row else None

    def see(self, found: Iterable[Seen]) -> None:
        """Remember each address that is new, in this order."""
        with self._whole():
            self._see(found)

    def _see(self, found: Iterable[Seen]) -> None:
        seq = self.seen()
        for item in found:
            added = self.db.execute(
                "insert or ignore into addresses (crawl, seq, url, site, hops, depth, state, reason) "
                "values (?, ?, ?, ?, ?, ?, ?, ?)",
                (self.crawl, seq, item.url, item.site, item.hops, item.depth, "refused" if item.reason else QUEUED, item.reason),
            ).rowcount
            seq += added

    def settle(self, address: Address, stored: Stored | None = None, found: Iterable[Seen] = ()) -> None:
        """Write the fate of `address`, what is kept of its page, and what it links to, in one transaction."""
        fate = (address.state, address.reason, address.status, address.received, address.size, address.tries, address.seconds)
        with self._whole():
            self.db.execute(
                "update addresses set state = ?, reason = ?, status = ?, received = ?, size = ?, tries = ?, seconds = ? "
                "where crawl = ? and seq = ?",
                (*fate, self.crawl, address.seq),
            )
            if stored is not None:
                facts = json.dumps(dict(stored.facts), sort_keys=True)
                body = zlib.compress(stored.body, 1)
                row = (address.url, stored.etag, stored.modified, stored.content_type, stored.digest, facts, body)
                self.db.execute("insert or replace into pages values (?, ?, ?, ?, ?, ?, ?)", row)
            self._see(found)

    def page(self, url: str) -> Stored | None:
        """What is kept of the page at `url`, from this crawl or one before."""
        row = self.db.execute(
            "select etag, modified, content_type, digest, facts, body from pages where url = ?", (url,)
        ).fetchone()
        if row is None:
            return None
        etag, modified, content_type, digest, facts, body = row
        return Stored(etag, modified, content_type, digest, json.loads(facts), zlib.decompress(body))

    def finish(self) -> None:
        """The crawl is over: the next begins anew. Pages that are no more are forgotten."""
        with self._whole():
            self.db.execute(
                "delete from pages where url not in (select url from addresses where crawl = ? and state = 'record')", (self.crawl,)
            )
            self.db.execute("update crawls set finished = 1 where id = ?", (self.crawl,))

    def abandon(self) -> None:
        """The crawl cannot go on: the next begins anew, with the pages of before."""
        self.db.execute("update crawls set finished = 1 where id = ?", (self.crawl,))
