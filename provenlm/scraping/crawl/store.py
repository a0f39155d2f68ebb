"""Store the frontier and the cached pages of a crawl in one SQLite file.

The outcome of a page, the archive location of its response and the links found on it are one transaction: a process killed at any
moment has either not begun a page or finished it. A crawl whose pages are all fetched is finished only once its results are
delivered: until then it is read again without a request. Safe for threads.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType

from provenlm.core.errors import DataError
from provenlm.scraping.crawl.archive import WarcArchive, WarcLocation
from provenlm.scraping.crawl.database import ABANDONED, DATABASE, FETCHED, FINISHED, UNFINISHED
from provenlm.scraping.crawl.frontier import CACHED_REASONS, NO_HOST, QUEUED, CachedPage, DiscoveredUrl, FrontierEntry
from provenlm.scraping.crawl.sitemap import SitemapResult
from provenlm.scraping.extraction.extractor import ExtractedDocument
from provenlm.scraping.state_folder import hold_lock

SCHEMA = """
create table if not exists crawls (id integer primary key, identity text not null, finished integer not null default 0);
create table if not exists frontier (
  crawl integer not null, host text not null, seq integer not null, url text not null, site text not null, redirects integer not null,
  depth integer not null, state text not null, reason text not null, status integer, received_bytes integer not null default 0,
  size integer not null default 0, attempts integer not null default 0, seconds real not null default 0,
  primary key (crawl, host, seq), unique (crawl, url)) without rowid;
create table if not exists deferred (
  crawl integer not null, host text not null, origin text not null, seq integer not null, position integer not null, url text not null,
  site text not null, reason text not null, redirects integer not null, depth integer not null);
create table if not exists sitemaps (
  crawl integer not null, host text not null, position integer not null, url text not null, reason text not null, pages integer not null);
create table if not exists pages (
  url text primary key, etag text not null, last_modified text not null, content_type text not null, fetched_at text not null,
  sha256 text not null, size integer not null, file text not null, start integer not null, length integer not null,
  extractor_version text not null, metadata text not null, content blob not null);
"""
COLUMNS = "host, seq, url, site, redirects, depth, state, reason, status, received_bytes, size, attempts, seconds"
SCHEMA_VERSION = 4


class CrawlStore:
    """Store the newest crawl of a folder; resume it if it is unfinished.

    An unfinished crawl of another identity is replaced by a new one. With `from_cache`, the newest finished crawl is
    opened; raises DataError if its identity differs, and if another process has the folder open.
    """

    def __init__(self, folder: Path, identity: str, from_cache: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = folder / DATABASE, threading.RLock()
        with ExitStack() as stack:
            stack.enter_context(hold_lock(folder / "crawl.lock"))
            self.db = stack.enter_context(closing(sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)))
            self.db.execute("pragma journal_mode = wal")
            self.db.execute("pragma synchronous = normal")
            if self.db.execute("pragma user_version").fetchone()[0] not in (0, SCHEMA_VERSION):
                raise DataError(f"{self.path.as_posix()}: written by another version of Provenlm; delete the file to crawl again")
            self.db.executescript(f"{SCHEMA} pragma user_version = {SCHEMA_VERSION};")
            self.crawl_id = self._last_crawl(identity) if from_cache else self._begin_crawl(identity)
            file_sizes = self.db.execute("select file, max(start + length) from pages group by file").fetchall()
            self.archive = WarcArchive(folder / "warc", dict(file_sizes))
            self.total, self.queued = self.db.execute(
                "select count(*), coalesce(sum(state = ?), 0) from frontier where crawl = ?", (QUEUED, self.crawl_id)
            ).fetchone()
            self.resources = stack.pop_all()

    def __enter__(self) -> "CrawlStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.resources.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the block as one transaction, one thread at a time."""
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
        if finished not in (FINISHED, FETCHED) or last_identity != identity:
            raise DataError(
                "from_cache: must be false for the first crawl of these sources, limits and crawl_policy; the stored crawl differs or is unfinished"
            )
        return crawl_id

    def _begin_crawl(self, identity: str) -> int:
        last_id, last_identity, finished = self._newest_crawl()
        if last_identity == identity and finished in (UNFINISHED, FETCHED):
            return last_id
        with self.lock:
            self.db.execute("begin immediate")  # delete the frontier of the older crawl; keep its pages for conditional requests
            self.db.execute("delete from frontier")
            self.db.execute("delete from deferred")
            self.db.execute("delete from sitemaps")
            crawl_id = self.db.execute("insert into crawls (identity) values (?)", (identity,)).lastrowid
            self.db.execute("commit")
        assert crawl_id is not None
        return crawl_id

    def urls_of_host(self, host: str) -> list[tuple[str, int, str]]:
        """Return each URL of a host with its number of redirects and its reason."""
        with self.lock:
            query = "select url, redirects, reason from frontier where crawl = ? and host = ? order by seq"
            return self.db.execute(query, (self.crawl_id, host)).fetchall()

    def budget_used(self, host: str) -> dict[str, tuple[int, int]]:
        """Return the number and bytes of the records of a host, by site."""
        with self.lock:
            rows = self.db.execute(
                "select site, count(*), sum(size) from frontier where crawl = ? and host = ? and state = 'record' group by site",
                (self.crawl_id, host),
            ).fetchall()
        return {site: (count, size) for site, count, size in rows}

    def next_entry(self, host: str, seq: int) -> FrontierEntry | None:
        """Return the first queued entry of a host from `seq` on."""
        query = f"select {COLUMNS} from frontier where crawl = ? and host = ? and seq >= ? and state = ? order by seq limit 1"
        with self.lock:
            row = self.db.execute(query, (self.crawl_id, host, seq, QUEUED)).fetchone()
        return FrontierEntry(*row) if row else None

    def entries(self, host: str) -> Iterator[FrontierEntry]:
        """Yield every entry of a host in the order of discovery."""
        seq, query = 0, f"select {COLUMNS} from frontier where crawl = ? and host = ? and seq >= ? order by seq limit 1000"
        while rows := self.db.execute(query, (self.crawl_id, host, seq)).fetchall():
            yield from (FrontierEntry(*row) for row in rows)
            seq = rows[-1][1] + 1

    def state_of(self, url: str) -> str:
        """Return the state of a URL; "" if the crawl never saw it."""
        with self.lock:
            row = self.db.execute("select state from frontier where crawl = ? and url = ?", (self.crawl_id, url)).fetchone()
        return str(row[0]) if row else ""

    def enqueue(self, host: str, discovered: Iterable[DiscoveredUrl], sitemaps: Sequence[SitemapResult] = ()) -> None:
        """Enqueue the URLs that a host begins with, and store the outcome of its sitemaps."""
        with self._transaction():
            self._enqueue(host, -1, discovered)
            rows = [(self.crawl_id, host, i, item.url, item.reason, len(item.page_urls)) for i, item in enumerate(sitemaps)]
            self.db.executemany("insert into sitemaps values (?, ?, ?, ?, ?, ?)", rows)

    def _enqueue(self, host: str, seq: int, discovered: Iterable[DiscoveredUrl]) -> None:
        """Append the new URLs of this host; URLs of other hosts go to `deferred`.

        So the order of a queue depends on its own host alone, never on which of two hosts was faster.
        """
        for position, item in enumerate(discovered):
            if item.host in (host, NO_HOST):
                self._insert(item)
            else:
                row = (self.crawl_id, item.host, host, seq, position, item.url, item.site, item.reason, item.redirects, item.depth)
                self.db.execute("insert into deferred values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _insert(self, item: DiscoveredUrl) -> int:
        (seq,) = self.db.execute(
            "select coalesce(max(seq) + 1, 0) from frontier where crawl = ? and host = ?", (self.crawl_id, item.host)
        ).fetchone()
        added = self.db.execute(
            "insert or ignore into frontier (crawl, host, seq, url, site, redirects, depth, state, reason) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.crawl_id,
                item.host,
                seq,
                item.url,
                item.site,
                item.redirects,
                item.depth,
                "skipped" if item.reason else QUEUED,
                item.reason,
            ),
        ).rowcount
        self.total += added
        self.queued += added if not item.reason else 0
        return added

    def enqueue_deferred(self) -> int:
        """Enqueue the URLs that other hosts linked to; return the number of new ones."""
        query = "select url, host, site, reason, redirects, depth from deferred where crawl = ? order by origin, seq, position"
        with self._transaction():
            added = sum(self._insert(DiscoveredUrl(*row)) for row in self.db.execute(query, (self.crawl_id,)).fetchall())
            self.db.execute("delete from deferred where crawl = ?", (self.crawl_id,))
        return added

    def complete(self, entry: FrontierEntry, cached: CachedPage | None = None, discovered: Iterable[DiscoveredUrl] = ()) -> None:
        """Write the outcome of an entry, its cached page and its links in one transaction."""
        outcome = (entry.state, entry.reason, entry.status, entry.received_bytes, entry.size, entry.attempts, entry.seconds)
        with self._transaction():
            self.db.execute(
                "update frontier set state = ?, reason = ?, status = ?, received_bytes = ?, size = ?, attempts = ?, seconds = ? "
                "where crawl = ? and host = ? and seq = ?",
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
        """Return the cached page of `url`, from this crawl or an earlier one."""
        with self.lock:
            row = self.db.execute("select * from pages where url = ?", (url,)).fetchone()
        if row is None:
            return None
        try:
            media_type, metadata, links, reason, canonical_url = json.loads(row[11])
            document = ExtractedDocument(zlib.decompress(row[12]), media_type, metadata, tuple(links), reason, canonical_url)
        except (zlib.error, ValueError, TypeError):
            raise DataError(f"{self.path.as_posix()}: damaged at the page {url}; delete the file to crawl again") from None
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
        """Return the URLs of all cached pages."""
        with self.lock:
            return [url for (url,) in self.db.execute("select url from pages order by url")]

    def mark_fetched(self) -> None:
        """Mark every page as fetched, delete obsolete pages and compact the archive."""
        with self._transaction():
            cached_entries = f"select url from frontier where crawl = ? and (state = 'record' or reason in {CACHED_REASONS})"
            self.db.execute(f"delete from pages where url not in ({cached_entries})", (self.crawl_id,))
            self.db.execute("update crawls set finished = ? where id = ?", (FETCHED, self.crawl_id))
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
        """Mark the crawl as abandoned; the next one reuses the cached pages."""
        with self.lock:
            self.db.execute("update crawls set finished = ? where id = ?", (ABANDONED, self.crawl_id))
