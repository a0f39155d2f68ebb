"""What a crawl knows, in one SQLite file that outlives it: every address with its fate, and what became of every page's last response.

A page's fate, its response's place in the archive and the links found on it are one transaction, so a process killed at any moment has
either not begun a page or finished it. Safe for threads.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from provenlm.core.errors import UserError
from provenlm.scraping.crawl.archive import Archive, Place
from provenlm.scraping.crawl.frontier import KEPT, NOWHERE, QUEUED, Address, Seen, Stored
from provenlm.scraping.extraction.reader import Page

SCHEMA = """
create table if not exists crawls (id integer primary key, identity text not null, finished integer not null default 0);
create table if not exists addresses (
  crawl integer not null, lane text not null, seq integer not null, url text not null, site text not null, hops integer not null,
  depth integer not null, state text not null, reason text not null, status integer, received integer not null default 0,
  size integer not null default 0, tries integer not null default 0, seconds real not null default 0,
  primary key (crawl, lane, seq), unique (crawl, url)) without rowid;
create table if not exists later (
  crawl integer not null, lane text not null, origin text not null, seq integer not null, place integer not null, url text not null,
  site text not null, reason text not null, hops integer not null, depth integer not null);
create table if not exists pages (
  url text primary key, etag text not null, modified text not null, content_type text not null, fetched_at text not null,
  digest text not null, size integer not null, file text not null, start integer not null, length integer not null,
  reader text not null, facts text not null, body blob not null);
"""
COLUMNS = "lane, seq, url, site, hops, depth, state, reason, status, received, size, tries, seconds"
VERSION = 3  # of the schema
UNFINISHED, FINISHED, ABANDONED = 0, 1, 2


class State:
    """The newest crawl of a folder: an unfinished one of the same identity is taken up again, else a new one begins.

    `offline`: the newest crawl as it ended. UserError if it is not of this identity.
    """

    def __init__(self, folder: Path, identity: str, offline: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = folder / "crawl.sqlite", threading.RLock()
        try:
            self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self.db.execute("pragma journal_mode = wal")
            self.db.execute("pragma synchronous = normal")
            if self.db.execute("pragma user_version").fetchone()[0] not in (0, VERSION):
                raise UserError(f"{self.path.as_posix()}: written by another version; delete the file to crawl afresh")
            self.db.executescript(f"{SCHEMA} pragma user_version = {VERSION};")
            self.crawl = self._last(identity) if offline else self._begin(identity)
            ends = self.db.execute("select file, max(start + length) from pages group by file").fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path.as_posix()}: {error}; delete the file to crawl afresh") from None
        self.archive = Archive(folder / "warc", dict(ends))
        self.total, self.queued = self.db.execute(
            "select count(*), coalesce(sum(state = ?), 0) from addresses where crawl = ?", (QUEUED, self.crawl)
        ).fetchone()

    def __enter__(self) -> "State":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.db.close()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All of the block or nothing of it, one thread at a time."""
        with self.lock:
            self.db.execute("begin immediate")
            counts = self.total, self.queued
            try:
                yield
            except BaseException:
                self.db.execute("rollback")
                self.total, self.queued = counts
                raise
            self.db.execute("commit")

    def _newest(self) -> tuple[int, str, int]:
        row = self.db.execute("select id, identity, finished from crawls order by id desc limit 1").fetchone()
        return row or (0, "", ABANDONED)

    def _last(self, identity: str) -> int:
        crawl, known, finished = self._newest()
        if finished != FINISHED or known != identity:
            raise UserError(
                "offline: the last crawl here did not end, or was of other sites, bounds or manners; set it to false once"
            )
        return crawl

    def _begin(self, identity: str) -> int:
        crawl, known, finished = self._newest()
        if known == identity and finished == UNFINISHED:
            return crawl
        with self.lock:
            self.db.execute("begin immediate")  # the addresses of an older crawl go; its pages stay, for conditional requests
            self.db.execute("delete from addresses")
            self.db.execute("delete from later")
            made = self.db.execute("insert into crawls (identity) values (?)", (identity,)).lastrowid
            self.db.execute("commit")
        assert made is not None
        return made

    def urls(self, lane: str) -> list[tuple[str, str, str]]:
        """Each address of a lane with its site and reason."""
        with self.lock:
            asked = "select url, site, reason from addresses where crawl = ? and lane = ? order by seq"
            return self.db.execute(asked, (self.crawl, lane)).fetchall()

    def taken(self, lane: str) -> dict[str, tuple[int, int]]:
        """Pages of a lane that became records so far and their bytes, by site."""
        with self.lock:
            rows = self.db.execute(
                "select site, count(*), sum(size) from addresses where crawl = ? and lane = ? and state = 'record' group by site",
                (self.crawl, lane),
            ).fetchall()
        return {site: (count, size) for site, count, size in rows}

    def next(self, lane: str, seq: int) -> Address | None:
        """The first address of a lane, from `seq` on, that waits."""
        asked = f"select {COLUMNS} from addresses where crawl = ? and lane = ? and seq >= ? and state = ? order by seq limit 1"
        with self.lock:
            row = self.db.execute(asked, (self.crawl, lane, seq, QUEUED)).fetchone()
        return Address(*row) if row else None

    def all(self, lane: str) -> Iterator[Address]:
        """Every address of a lane, in the order in which they were seen."""
        seq, asked = 0, f"select {COLUMNS} from addresses where crawl = ? and lane = ? and seq >= ? order by seq limit 1000"
        while rows := self.db.execute(asked, (self.crawl, lane, seq)).fetchall():
            yield from (Address(*row) for row in rows)
            seq = rows[-1][1] + 1

    def fate(self, url: str) -> str:
        """The state of an address; "" if it was never seen."""
        with self.lock:
            row = self.db.execute("select state from addresses where crawl = ? and url = ?", (self.crawl, url)).fetchone()
        return str(row[0]) if row else ""

    def see(self, lane: str, found: Iterable[Seen]) -> None:
        """Remember what the host of `lane` names at the start."""
        with self._whole():
            self._see(lane, -1, found)

    def _see(self, lane: str, seq: int, found: Iterable[Seen]) -> None:
        """Each new address takes its place in its own lane; what another host leads to waits in `later`.

        So the order of a lane depends on its own host alone, never on which of two hosts was faster.
        """
        for place, item in enumerate(found):
            if item.lane in (lane, NOWHERE):
                self._add(item)
            else:
                row = (self.crawl, item.lane, lane, seq, place, item.url, item.site, item.reason, item.hops, item.depth)
                self.db.execute("insert into later values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _add(self, item: Seen) -> int:
        (seq,) = self.db.execute(
            "select coalesce(max(seq) + 1, 0) from addresses where crawl = ? and lane = ?", (self.crawl, item.lane)
        ).fetchone()
        added = self.db.execute(
            "insert or ignore into addresses (crawl, lane, seq, url, site, hops, depth, state, reason) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.crawl,
                item.lane,
                seq,
                item.url,
                item.site,
                item.hops,
                item.depth,
                "refused" if item.reason else QUEUED,
                item.reason,
            ),
        ).rowcount
        self.total += added
        self.queued += added if not item.reason else 0
        return added

    def bring_later(self) -> int:
        """Let every address that another host led to take its place now; returns how many are new."""
        asked = "select url, lane, site, reason, hops, depth from later where crawl = ? order by origin, seq, place"
        with self._whole():
            added = sum(self._add(Seen(*row)) for row in self.db.execute(asked, (self.crawl,)).fetchall())
            self.db.execute("delete from later where crawl = ?", (self.crawl,))
        return added

    def settle(self, address: Address, stored: Stored | None = None, found: Iterable[Seen] = ()) -> None:
        """Write the fate of `address`, what is kept of its page, and what it links to, in one transaction."""
        fate = (address.state, address.reason, address.status, address.received, address.size, address.tries, address.seconds)
        with self._whole():
            self.db.execute(
                "update addresses set state = ?, reason = ?, status = ?, received = ?, size = ?, tries = ?, seconds = ? "
                "where crawl = ? and lane = ? and seq = ?",
                (*fate, self.crawl, address.lane, address.seq),
            )
            self.queued -= 1
            if stored is not None:
                self._keep(address.url, stored)
            self._see(address.lane, address.seq, found)

    def _keep(self, url: str, stored: Stored) -> None:
        page, place = stored.page, stored.place
        facts = json.dumps([page.media_type, dict(page.facts), page.links, page.reason, page.canonical], sort_keys=True)
        response = (url, stored.etag, stored.modified, stored.content_type, stored.fetched_at, stored.digest, stored.size)
        row = (*response, place.file, place.offset, place.length, stored.reader, facts, zlib.compress(page.body, 1))
        self.db.execute("insert or replace into pages values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def page(self, url: str) -> Stored | None:
        """What is kept of the page at `url`, from this crawl or one before."""
        with self.lock:
            row = self.db.execute("select * from pages where url = ?", (url,)).fetchone()
        if row is None:
            return None
        media_type, facts, links, reason, canonical = json.loads(row[11])
        page = Page(zlib.decompress(row[12]), media_type, facts, tuple(links), reason, canonical)
        _, etag, modified, content_type, fetched_at, content, size, file, start, length, reader, *_ = row
        return Stored(etag, modified, content_type, fetched_at, content, size, Place(file, start, length), reader, page)

    def pages(self) -> list[str]:
        """The addresses of all pages that are kept."""
        with self.lock:
            return [url for (url,) in self.db.execute("select url from pages order by url")]

    def finish(self) -> None:
        """The crawl is over: the next begins anew. Pages that are no more are forgotten, and so are their responses in time."""
        with self._whole():
            known = f"select url from addresses where crawl = ? and (state = 'record' or reason in {KEPT})"
            self.db.execute(f"delete from pages where url not in ({known})", (self.crawl,))
            self.db.execute("update crawls set finished = ? where id = ?", (FINISHED, self.crawl))
        places = {url: Place(*place) for url, *place in self.db.execute("select url, file, start, length from pages order by url")}
        moved = self.archive.compacted(places.values())
        if moved:
            rows = [(new.file, new.offset, new.length, url) for url, old in places.items() for new in (moved[old],)]
            with self._whole():
                self.db.executemany("update pages set file = ?, start = ?, length = ? where url = ?", rows)
            self.archive.forget(but={place.file for place in moved.values()})

    def abandon(self) -> None:
        """The crawl cannot go on: the next begins anew, with the pages of before."""
        with self.lock:
            self.db.execute("update crawls set finished = ? where id = ?", (ABANDONED, self.crawl))
