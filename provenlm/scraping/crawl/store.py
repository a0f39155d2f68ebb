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

from provenlm.core.errors import ProvenlmError
from provenlm.scraping.crawl.archive import WarcArchive, WarcLocation
from provenlm.scraping.crawl.frontier import CACHED_REASONS, NO_HOST, QUEUED, CachedPage, DiscoveredUrl, FrontierEntry
from provenlm.scraping.extraction.reader import ExtractedDocument

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
SCHEMA_VERSION = 3  # of the schema
UNFINISHED, FINISHED, ABANDONED = 0, 1, 2


class CrawlStore:
    """The newest crawl of a folder: an unfinished one of the same identity is taken up again, else a new one begins.

    `offline`: the newest crawl as it ended. ProvenlmError if it is not of this identity.
    """

    def __init__(self, folder: Path, identity: str, from_cache: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = folder / "crawl.sqlite", threading.RLock()
        try:
            self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self.db.execute("pragma journal_mode = wal")
            self.db.execute("pragma synchronous = normal")
            if self.db.execute("pragma user_version").fetchone()[0] not in (0, SCHEMA_VERSION):
                raise ProvenlmError(f"{self.path.as_posix()}: written by another version; delete the file to crawl afresh")
            self.db.executescript(f"{SCHEMA} pragma user_version = {SCHEMA_VERSION};")
            self.crawl_id = self._last_crawl(identity) if from_cache else self._begin_crawl(identity)
            file_sizes = self.db.execute("select file, max(start + length) from pages group by file").fetchall()
        except sqlite3.DatabaseError as error:
            raise ProvenlmError(f"{self.path.as_posix()}: {error}; delete the file to crawl afresh") from None
        self.archive = WarcArchive(folder / "warc", dict(file_sizes))
        self.total, self.queued = self.db.execute(
            "select count(*), coalesce(sum(state = ?), 0) from addresses where crawl = ?", (QUEUED, self.crawl_id)
        ).fetchone()

    def __enter__(self) -> "CrawlStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
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

    def _newest_crawl(self) -> tuple[int, str, int]:
        row = self.db.execute("select id, identity, finished from crawls order by id desc limit 1").fetchone()
        return row or (0, "", ABANDONED)

    def _last_crawl(self, identity: str) -> int:
        crawl_id, last_identity, finished = self._newest_crawl()
        if finished != FINISHED or last_identity != identity:
            raise ProvenlmError(
                "offline: the last crawl here did not end, or was of other sites, bounds or manners; set it to false once"
            )
        return crawl_id

    def _begin_crawl(self, identity: str) -> int:
        last_id, last_identity, finished = self._newest_crawl()
        if last_identity == identity and finished == UNFINISHED:
            return last_id
        with self.lock:
            self.db.execute("begin immediate")  # the addresses of an older crawl go; its pages stay, for conditional requests
            self.db.execute("delete from addresses")
            self.db.execute("delete from later")
            crawl_id = self.db.execute("insert into crawls (identity) values (?)", (identity,)).lastrowid
            self.db.execute("commit")
        assert crawl_id is not None
        return crawl_id

    def urls_of_host(self, host: str) -> list[tuple[str, str, str]]:
        """Each address of a lane with its site and reason."""
        with self.lock:
            query = "select url, site, reason from addresses where crawl = ? and lane = ? order by seq"
            return self.db.execute(query, (self.crawl_id, host)).fetchall()

    def budget_used(self, host: str) -> dict[str, tuple[int, int]]:
        """Pages of a lane that became records so far and their bytes, by site."""
        with self.lock:
            rows = self.db.execute(
                "select site, count(*), sum(size) from addresses where crawl = ? and lane = ? and state = 'record' group by site",
                (self.crawl_id, host),
            ).fetchall()
        return {site: (count, size) for site, count, size in rows}

    def next_entry(self, host: str, seq: int) -> FrontierEntry | None:
        """The first address of a lane, from `seq` on, that waits."""
        query = f"select {COLUMNS} from addresses where crawl = ? and lane = ? and seq >= ? and state = ? order by seq limit 1"
        with self.lock:
            row = self.db.execute(query, (self.crawl_id, host, seq, QUEUED)).fetchone()
        return FrontierEntry(*row) if row else None

    def entries(self, host: str) -> Iterator[FrontierEntry]:
        """Every address of a lane, in the order in which they were seen."""
        seq, query = 0, f"select {COLUMNS} from addresses where crawl = ? and lane = ? and seq >= ? order by seq limit 1000"
        while rows := self.db.execute(query, (self.crawl_id, host, seq)).fetchall():
            yield from (FrontierEntry(*row) for row in rows)
            seq = rows[-1][1] + 1

    def state_of(self, url: str) -> str:
        """The state of an address; "" if it was never seen."""
        with self.lock:
            row = self.db.execute("select state from addresses where crawl = ? and url = ?", (self.crawl_id, url)).fetchone()
        return str(row[0]) if row else ""

    def enqueue(self, host: str, discovered: Iterable[DiscoveredUrl]) -> None:
        """Remember what the host of `lane` names at the start."""
        with self._transaction():
            self._enqueue(host, -1, discovered)

    def _enqueue(self, host: str, seq: int, discovered: Iterable[DiscoveredUrl]) -> None:
        """Each new address takes its place in its own lane; what another host leads to waits in `later`.

        So the order of a lane depends on its own host alone, never on which of two hosts was faster.
        """
        for position, item in enumerate(discovered):
            if item.host in (host, NO_HOST):
                self._insert(item)
            else:
                row = (self.crawl_id, item.host, host, seq, position, item.url, item.site, item.reason, item.redirects, item.depth)
                self.db.execute("insert into later values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _insert(self, item: DiscoveredUrl) -> int:
        (seq,) = self.db.execute(
            "select coalesce(max(seq) + 1, 0) from addresses where crawl = ? and lane = ?", (self.crawl_id, item.host)
        ).fetchone()
        added = self.db.execute(
            "insert or ignore into addresses (crawl, lane, seq, url, site, hops, depth, state, reason) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.crawl_id,
                item.host,
                seq,
                item.url,
                item.site,
                item.redirects,
                item.depth,
                "refused" if item.reason else QUEUED,
                item.reason,
            ),
        ).rowcount
        self.total += added
        self.queued += added if not item.reason else 0
        return added

    def enqueue_deferred(self) -> int:
        """Let every address that another host led to take its place now; returns how many are new."""
        query = "select url, lane, site, reason, hops, depth from later where crawl = ? order by origin, seq, place"
        with self._transaction():
            added = sum(self._insert(DiscoveredUrl(*row)) for row in self.db.execute(query, (self.crawl_id,)).fetchall())
            self.db.execute("delete from later where crawl = ?", (self.crawl_id,))
        return added

    def complete(self, entry: FrontierEntry, cached: CachedPage | None = None, discovered: Iterable[DiscoveredUrl] = ()) -> None:
        """Write the fate of `address`, what is kept of its page, and what it links to, in one transaction."""
        outcome = (entry.state, entry.reason, entry.status, entry.bytes_received, entry.size, entry.attempts, entry.seconds)
        with self._transaction():
            self.db.execute(
                "update addresses set state = ?, reason = ?, status = ?, received = ?, size = ?, tries = ?, seconds = ? "
                "where crawl = ? and lane = ? and seq = ?",
                (*outcome, self.crawl_id, entry.host, entry.seq),
            )
            self.queued -= 1
            if cached is not None:
                self._cache_page(entry.url, cached)
            self._enqueue(entry.host, entry.seq, discovered)

    def _cache_page(self, url: str, cached: CachedPage) -> None:
        document, location = cached.document, cached.location
        metadata_json = json.dumps(
            [document.media_type, dict(document.metadata), document.links, document.reason, document.canonical_url], sort_keys=True
        )
        response = (url, cached.etag, cached.last_modified, cached.content_type, cached.fetched_at, cached.sha256, cached.size)
        row = (
            *response,
            location.file,
            location.offset,
            location.length,
            cached.extractor_version,
            metadata_json,
            zlib.compress(document.content, 1),
        )
        self.db.execute("insert or replace into pages values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def cached_page(self, url: str) -> CachedPage | None:
        """What is kept of the page at `url`, from this crawl or one before."""
        with self.lock:
            row = self.db.execute("select * from pages where url = ?", (url,)).fetchone()
        if row is None:
            return None
        media_type, metadata, links, reason, canonical_url = json.loads(row[11])
        document = ExtractedDocument(zlib.decompress(row[12]), media_type, metadata, tuple(links), reason, canonical_url)
        _, etag, last_modified, content_type, fetched_at, sha256, size, file, start, length, extractor_version, *_ = row
        return CachedPage(
            etag,
            last_modified,
            content_type,
            fetched_at,
            sha256,
            size,
            WarcLocation(file, start, length),
            extractor_version,
            document,
        )

    def cached_urls(self) -> list[str]:
        """The addresses of all pages that are kept."""
        with self.lock:
            return [url for (url,) in self.db.execute("select url from pages order by url")]

    def finish(self) -> None:
        """The crawl is over: the next begins anew. Pages that are no more are forgotten, and so are their responses in time."""
        with self._transaction():
            cached_entries = f"select url from addresses where crawl = ? and (state = 'record' or reason in {CACHED_REASONS})"
            self.db.execute(f"delete from pages where url not in ({cached_entries})", (self.crawl_id,))
            self.db.execute("update crawls set finished = ? where id = ?", (FINISHED, self.crawl_id))
        locations = {
            url: WarcLocation(*location)
            for url, *location in self.db.execute("select url, file, start, length from pages order by url")
        }
        new_locations = self.archive.compact(locations.values())
        if new_locations:
            rows = [(new.file, new.offset, new.length, url) for url, old in locations.items() for new in (new_locations[old],)]
            with self._transaction():
                self.db.executemany("update pages set file = ?, start = ?, length = ? where url = ?", rows)
            self.archive.delete_files_except(names={location.file for location in new_locations.values()})

    def abandon(self) -> None:
        """The crawl cannot go on: the next begins anew, with the pages of before."""
        with self.lock:
            self.db.execute("update crawls set finished = ? where id = ?", (ABANDONED, self.crawl_id))
