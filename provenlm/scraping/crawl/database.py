"""Mark a crawl as delivered, and name the faults of its database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from provenlm.core.errors import DataError
from provenlm.scraping.state_folder import disk_advice, readable_disk_errors

DATABASE = "crawl.sqlite"
UNFINISHED, FINISHED, ABANDONED, FETCHED = 0, 1, 2, 3  # FETCHED: every page has an outcome, but the results are not delivered
DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR_SHORT_READ)


def sitemap_outcomes(folder: Path) -> list[tuple[str, str, int]]:
    """Return the outcome of each sitemap of the newest crawl of `folder`.

    It is the URL, the reason why the sitemap was not read ("" if it was), and its number of pages.
    """
    if not (folder / DATABASE).exists():
        return []
    with readable_errors(folder), closing(sqlite3.connect(folder / DATABASE)) as db:
        query = "select url, reason, pages from sitemaps where crawl = (select max(id) from crawls) order by host, position"
        return db.execute(query).fetchall()


def mark_delivered(folder: Path) -> None:
    """Mark the crawl of `folder` as finished, because its results stand.

    The next one sends requests again.
    """
    _change_state(folder, FETCHED, FINISHED)


def mark_undelivered(folder: Path) -> None:
    """Take back `mark_delivered`.

    The next crawl reads the pages of the last one, without a request.
    """
    _change_state(folder, FINISHED, FETCHED)


def _change_state(folder: Path, old: int, new: int) -> None:
    if (folder / DATABASE).exists():
        with readable_errors(folder), closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
            query = "update crawls set finished = ? where finished = ? and id = (select max(id) from crawls)"
            db.execute(query, (new, old))


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the disk or of SQLite into a DataError of one line.

    Only a damaged file is advised to be deleted. A disk that is full or read-only is called so, and the crawl is kept.
    """
    path = (folder / DATABASE).as_posix()
    try:
        with readable_disk_errors(folder):
            yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code in DAMAGE_CODES or code & 0xFF in DAMAGE_CODES:
            raise DataError(f"{path}: damaged: {error}; delete the file to crawl again") from None
        raise DataError(f"{path}: {error}; {disk_advice(folder)}") from None
