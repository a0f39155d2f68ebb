"""Open the files of a source: local or at an fsspec address, compressed or not."""

import bz2
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO, cast

from provenlm.core.errors import ConfigError, DataError

REMOTE_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")  # s3://, gs://, hf://, https:// …
PROBE_BYTES = 512
COMPRESSION_MAGICS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
COMPRESSION_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
FORMAT_MAGICS = (
    (b"PAR1", "Parquet"), (b"PK\x03\x04", "ZIP"), (b"ARROW1", "Arrow"), (b"FEA1", "Feather"), (b"Obj\x01", "Avro"),
    (b"SQLite format 3\0", "SQLite"), (b"\x89HDF", "HDF5"), (b"%PDF", "PDF"), (b"WARC/", "WARC"), (b"\x80\x04\x95", "pickle"),
    (b"\x04\x22\x4d\x18", "LZ4"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
    (b"version https://git-lfs", "Git LFS pointer"),
)  # fmt: skip
HTML_START = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
ZSTD_MAX_WINDOW = 1 << 31  # frames of `zstd --long=31`
ZSTD_CHUNK_BYTES = 1024  # decompressed at once; a block of 128 KiB takes at least 4 bytes
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)


def printable(text: str) -> str:
    """Escape what UTF-8 cannot encode: bytes of a file name, or lone surrogates."""
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def expand_files(patterns: Sequence[str]) -> list[str]:
    """Return the matching files, sorted, without duplicates; `~` is the home folder.

    Raises ConfigError for a pattern without a match.
    """
    matches = {pattern: _match(pattern) for pattern in patterns}
    for pattern, names in matches.items():
        if not names:
            raise ConfigError(f"files must match at least one file, got {pattern!r}")
    return sorted({name for names in matches.values() for name in names})


def _match(pattern: str) -> list[str]:
    if not REMOTE_ADDRESS.match(pattern):
        return [name for name in glob(os.path.expanduser(pattern), recursive=True) if Path(name).is_file()]  # noqa: PTH111, PTH207
    scheme = pattern.partition("://")[0]
    if scheme in ("http", "https") or not any(mark in pattern for mark in "*?["):
        return [pattern]
    with _named_errors(pattern):
        file_system, path = _file_system(pattern)
        return [f"{scheme}://{name.partition('://')[2] or name}" for name in file_system.glob(path)]


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec

    file_system, path = fsspec.core.url_to_fs(address)
    return file_system, str(path)


@contextmanager
def _named_errors(address: str) -> Iterator[None]:
    """Name the address in an error of its file system."""
    try:
        yield
    except ImportError as missing:
        raise ConfigError(f"files: {address!r} needs another package: {missing}") from None
    except Exception as exception:  # each file system has exceptions of its own
        error: BaseException = exception
        while error.__cause__ is not None:
            error = error.__cause__
        if isinstance(exception, FileNotFoundError) and (
            error is exception or not isinstance(error, OSError)
        ):  # no lost connection
            raise ConfigError(f"files must exist, got {address!r}") from None
        message = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"files: {address}: cannot be read: {message}") from None


class _RemoteFile(io.RawIOBase):
    """Read a file at an fsspec address; a fault of the network, after which it may be read again, is a DataError."""

    def __init__(self, file: Any, address: str) -> None:
        self.file, self.address = file, address

    def readable(self) -> bool:
        """Allow reading."""
        return True

    def seekable(self) -> bool:
        """Tell whether the file system can read from any position."""
        return bool(self.file.seekable())

    def tell(self) -> int:
        """Return the position."""
        return int(self.file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        return int(self.file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`."""
        with _named_errors(self.address):
            content = self.file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def open_file(name: str) -> BinaryIO:
    """Open a local file or an fsspec address. Raises ConfigError if it does not exist."""
    if not REMOTE_ADDRESS.match(name):
        return cast(BinaryIO, Path(name).open("rb"))
    with _named_errors(name):
        file_system, path = _file_system(name)
        return cast(BinaryIO, _RemoteFile(file_system.open(path, "rb"), name))


@contextmanager
def open_decompressed(name: str) -> Iterator[io.BufferedReader]:
    """Open a file and decompress it by its first bytes, whatever its suffix is."""
    with open_file(name) as file:
        yield decompressed(file)


def decompressed(file: BinaryIO) -> io.BufferedReader:
    """Wrap a stream so that it reads the decompressed bytes."""
    buffered = io.BufferedReader(cast(Any, file), 1 << 16)
    magic = next((magic for magic in COMPRESSION_MAGICS if buffered.peek(8).startswith(magic)), b"")
    raw: Any = buffered
    if COMPRESSION_MAGICS.get(magic) == "gzip":
        raw = gzip.GzipFile(fileobj=buffered)
    elif COMPRESSION_MAGICS.get(magic) == "bzip2":
        raw = bz2.BZ2File(buffered)
    elif COMPRESSION_MAGICS.get(magic) == "xz":
        raw = lzma.LZMAFile(buffered)  # noqa: SIM115
    elif COMPRESSION_MAGICS.get(magic) == "Zstandard":
        raw = _ZstdFile(buffered)
    return buffered if raw is buffered else io.BufferedReader(raw if isinstance(raw, _ZstdFile) else _Read1File(raw), 1 << 16)


class _Read1File(io.RawIOBase):
    """Hand on what a decompressor has, so that the content before damage is not lost in a buffer."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def readable(self) -> bool:
        """Allow reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what one read of the file gives."""
        content = self.file.read1(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _ZstdFile(io.RawIOBase):
    """Read a Zstandard stream of any number of frames.

    Unlike the readers of zstandard it raises EOFError if the stream is cut off.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        import zstandard

        self.file, self.content = file, b""
        self.decompressor: Any = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW)
        self.error = zstandard.ZstdError
        self.frame: Any = None

    def readable(self) -> bool:
        """Allow reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; raise OSError for damage."""
        while not self.content:
            if not (chunk := self.file.read(ZSTD_CHUNK_BYTES)):
                if self.frame is not None:
                    raise EOFError("the Zstandard stream is cut off")
                return 0
            self.content = self._decompress(chunk)
        size = min(len(buffer), len(self.content))
        buffer[:size], self.content = self.content[:size], self.content[size:]
        return size

    def _decompress(self, chunk: bytes) -> bytes:
        content = b""
        try:
            while chunk:
                self.frame = self.frame or self.decompressor.decompressobj()
                content += self.frame.decompress(chunk)
                chunk, self.frame = (self.frame.unused_data, None) if self.frame.eof else (b"", self.frame)
        except self.error as error:
            raise OSError(str(error)) from None
        return content


def without_compression_suffix(name: str) -> str:
    """Return the name of the file inside a compressed one: `a.txt` for `a.txt.gz`."""
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in COMPRESSION_SUFFIXES else name


def identify_format(head: bytes) -> str:
    """Name the file format of the first bytes of a file; "" if they may be text."""
    compression = next((format_name for magic, format_name in COMPRESSION_MAGICS.items() if head.startswith(magic)), "")
    format_name = compression or next((format_name for magic, format_name in FORMAT_MAGICS if head.startswith(magic)), "")
    if format_name or head[257:262] == b"ustar":
        return format_name or "tar"
    return "HTML" if HTML_START.match(head) else "binary" if b"\0" in head else ""
