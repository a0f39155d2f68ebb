"""Responses in, WARC files out that hold them for good, and back: so that extraction can be improved without asking anybody again.

WARC 1.1 (ISO 28500), one gzip member a record, as every reader of Common Crawl takes it. A body is kept decoded; the headers that spoke
of its encoding are renamed, as Common Crawl does.
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

from provenlm.core.errors import ProvenlmError

MAX_FILE_BYTES = 1 << 30  # a new file is begun above this
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # what a header may be called (RFC 9110, section 5.1); others are not kept
TRANSFER_HEADERS = {"content-encoding", "transfer-encoding", "content-length"}  # headers that no longer say what is kept


@dataclass(frozen=True, slots=True)
class WarcLocation:
    """Where a response lies."""

    file: str
    offset: int
    length: int


class WarcArchive:
    """The WARC files of one folder. Safe for threads."""

    def __init__(self, folder: Path, file_sizes: Mapping[str, int]) -> None:
        """`ends`: up to where each file holds what somebody knows of; what a killed process wrote behind that is cut off."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lock = folder, threading.Lock()
        for path in folder.glob("*.warc.gz"):
            if path.name not in file_sizes:
                path.unlink()
            elif path.stat().st_size > file_sizes[path.name]:
                with path.open("r+b") as file:
                    file.truncate(file_sizes[path.name])

    def append(self, url: str, headers: Mapping[str, str], body: bytes, date: str) -> WarcLocation:
        """Keep the answer 200 of `url`, which came at `date` (ISO 8601, UTC)."""
        member = io.BytesIO()
        writer = WARCWriter(member, gzip=False, warc_version="1.1")
        header_items = [
            (f"X-Crawl-{name}" if name.lower() in TRANSFER_HEADERS else name, _single_line(value))
            for name, value in headers.items()
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
        )  # warcio would take level 9: twice the CPU for a hundredth less

    def write_member(self, member: bytes) -> WarcLocation:
        """Add one gzip member to the newest file."""
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
        """The gzip member at `place`, as it lies there. ProvenlmError where the file is gone."""
        try:
            with (self.folder / location.file).open("rb") as file:
                file.seek(location.offset)
                return file.read(location.length)
        except OSError as error:
            raise ProvenlmError(
                f"{(self.folder / location.file).as_posix()}: {error.strerror}; delete the state to crawl afresh"
            ) from None

    def read_body(self, location: WarcLocation) -> bytes:
        """The body kept at `place`. ProvenlmError where the archive is damaged."""
        try:
            for record in ArchiveIterator(io.BytesIO(self.read_member(location))):
                return bytes(record.content_stream().read())
        except (ArchiveLoadFailed, zlib.error, EOFError, ValueError):
            pass
        raise ProvenlmError(
            f"{(self.folder / location.file).as_posix()}: damaged at byte {location.offset}; delete the state to crawl afresh"
        )

    def compact(self, locations: Iterable[WarcLocation]) -> dict[WarcLocation, WarcLocation]:
        """Copy what lies at `places` into new files, where less than half of the archive is still wanted; the old files stay."""
        live_locations = list(locations)
        size = sum(path.stat().st_size for path in self.folder.glob("*.warc.gz"))
        if 2 * sum(location.length for location in live_locations) >= size:
            return {}
        names = sorted(path.name for path in self.folder.glob("*.warc.gz"))
        (self.folder / f"{int(names[-1].split('.')[0]) + 1:05}.warc.gz").touch()
        return {location: self.write_member(self.read_member(location)) for location in live_locations}

    def delete_files_except(self, names: Iterable[str]) -> None:
        """Delete every file but those."""
        kept_names = set(names)
        for path in self.folder.glob("*.warc.gz"):
            if path.name not in kept_names:
                path.unlink()


def _single_line(value: str) -> str:
    return " ".join(value.split())
