"""Store responses as WARC files, so that text can be extracted again offline.

WARC 1.1 (ISO 28500), one gzip member per record, as in Common Crawl. A body is stored decoded; the headers that describe
its encoding are renamed, as in Common Crawl.
"""

import gzip
import io
import re
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from provenlm.core.errors import DataError

MAX_FILE_BYTES = 1 << 30  # above this size a new file begins
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # valid names (RFC 9110, section 5.1); other headers are dropped
TRANSFER_HEADERS = {"content-encoding", "transfer-encoding", "content-length"}  # headers that do not describe the decoded body


@dataclass(frozen=True, slots=True)
class WarcLocation:
    """Locate a response in the archive."""

    file: str
    offset: int
    length: int


class WarcArchive:
    """Append responses to the WARC files of one folder. Safe for threads."""

    def __init__(self, folder: Path, file_sizes: Mapping[str, int]) -> None:
        """Open an archive and cut each file to its committed size.

        A killed process may have written more than it committed. Files without a committed size are deleted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lock = folder, threading.Lock()
        for path in folder.glob("*.warc.gz"):
            if path.name not in file_sizes:
                path.unlink()
            elif path.stat().st_size > file_sizes[path.name]:
                with path.open("r+b") as file:
                    file.truncate(file_sizes[path.name])

    def append(self, url: str, headers: Mapping[str, str], body: bytes, date: str) -> WarcLocation:
        """Append the response 200 of `url`, received at `date` (ISO 8601, UTC)."""
        member = io.BytesIO()
        writer = WARCWriter(member, gzip=False, warc_version="1.1")
        header_items = [
            (f"X-Crawl-{name}" if name.lower() in TRANSFER_HEADERS else name, _single_line(line))
            for name, value in headers.items()
            for line in value.split("\n")
        ]
        header_items = [(name, value) for name, value in header_items if HEADER_NAME.fullmatch(name)]
        http = StatusAndHeaders("200 OK", [*header_items, ("Content-Length", str(len(body)))], protocol="HTTP/1.1")
        warc_headers = {"WARC-Date": date.replace("+00:00", "Z")}
        writer.write_record(
            writer.create_warc_record(
                url, "response", io.BytesIO(body), len(body), http_headers=http, warc_headers_dict=warc_headers
            )
        )
        return self.write_member(
            gzip.compress(member.getvalue(), 6, mtime=0)
        )  # warcio uses level 9: twice the CPU time for 1 % less

    def write_member(self, member: bytes) -> WarcLocation:
        """Append one gzip member to the newest file."""
        with self.lock:
            path = self._newest_file()
            with path.open("ab") as file:
                offset = file.tell()
                file.write(member)
        return WarcLocation(path.name, offset, len(member))

    def _newest_file(self) -> Path:
        names = sorted(path.name for path in self.folder.glob("*.warc.gz"))
        number = int(names[-1].split(".")[0]) if names else 0
        path = self.folder / f"{number:05}.warc.gz"
        return self.folder / f"{number + 1:05}.warc.gz" if path.exists() and path.stat().st_size > MAX_FILE_BYTES else path

    def read_member(self, location: WarcLocation) -> bytes:
        """Read the gzip member at `location`. Raises DataError if the file is missing."""
        try:
            with (self.folder / location.file).open("rb") as file:
                file.seek(location.offset)
                return file.read(location.length)
        except OSError as error:
            raise DataError(
                f"{(self.folder / location.file).as_posix()}: {error.strerror}; delete the crawl state to crawl again"
            ) from None

    def read_body(self, location: WarcLocation) -> bytes:
        """Read the body at `location`. Raises DataError if the archive is damaged."""
        return self.read_response(location)[1]

    def read_response(self, location: WarcLocation) -> tuple[list[tuple[str, str]], bytes]:
        """Read the headers and the body at `location`.

        Raises DataError if the archive is damaged.
        """
        try:
            for record in ArchiveIterator(io.BytesIO(self.read_member(location))):
                return list(record.http_headers.headers), bytes(record.content_stream().read())
        except (ArchiveLoadFailed, zlib.error, EOFError, ValueError):
            pass
        raise DataError(
            f"{(self.folder / location.file).as_posix()}: damaged at byte {location.offset}; delete the crawl state to crawl again"
        )

    def compact(self, locations: Iterable[WarcLocation]) -> dict[WarcLocation, WarcLocation]:
        """Copy the members at `locations` to new files if that halves the archive.

        Returns the new location of each old one; empty if the members are at least half of the archive. The old files stay.
        """
        live_locations = list(locations)
        size = sum(path.stat().st_size for path in self.folder.glob("*.warc.gz"))
        if 2 * sum(location.length for location in live_locations) >= size:
            return {}
        names = sorted(path.name for path in self.folder.glob("*.warc.gz"))
        (self.folder / f"{int(names[-1].split('.')[0]) + 1:05}.warc.gz").touch()
        return {location: self.write_member(self.read_member(location)) for location in live_locations}

    def delete_files_except(self, names: Iterable[str]) -> None:
        """Delete every WARC file that is not in `names`."""
        kept_names = set(names)
        for path in self.folder.glob("*.warc.gz"):
            if path.name not in kept_names:
                path.unlink()


def _single_line(value: str) -> str:
    return " ".join(value.split())
