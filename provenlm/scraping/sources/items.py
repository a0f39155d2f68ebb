"""Define the items of a source and the decoder that turns them into records.

A source (folder, git repository, table) yields bytes, media type and metadata. It does not interpret the content: the domain's decoder
decides what the bytes mean, so that a new media type needs no change here.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from provenlm.core import hashing
from provenlm.core.records import FetchResult, Record

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class SourceItem:
    """Hold one file or row of a source."""

    url: str  # unique within the source: FOLDER/PATH, REPOSITORY#PATH, FILE:ROW, or the column that names a row
    content: bytes
    media_type: str
    metadata: Mapping[str, Any]  # site, license (if known), and what the source knows: git blob, columns of a table
    size: int  # bytes read from the source


@dataclass(frozen=True, slots=True)
class DropReason:
    """Say why an item is no record.

    It is skipped by a rule, or `failed` because it could not be read.
    """

    reason: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class DroppedItem:
    """Hold a file or row that the source itself drops."""

    url: str
    drop: DropReason
    size: int = 0  # bytes read from the source


@dataclass(frozen=True)
class ItemDecoder:
    """Turn the items of a source into the records of a domain.

    `decode(item)` returns a record, usually `Record.from_content(content, media_type, item.url, **item.metadata)`, or why
    there is none.
    """

    decode: Callable[[SourceItem], Record | DropReason]
    media_types: Mapping[str, str]  # file suffix, such as ".mid", to media type
    other_media_type: str | None = None  # of files with another suffix; None: they are skipped

    def media_type_of(self, name: str) -> str | None:
        """Return the media type of a file by its suffix; None if it is not read."""
        return self.media_types.get(PurePosixPath(name).suffix.lower(), self.other_media_type)


def check_sample(limit: int | None, sample_frac: float) -> None:
    """Check the settings of limit_items. Raises ValueError."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or null for all, got {limit}")
    if not 0.0 < sample_frac <= 1.0:
        raise ValueError(f"sample_frac must be in (0, 1], got {sample_frac}")


def is_sampled(url: str, sample_frac: float) -> bool:
    """Tell whether the item of a URL is in the sample.

    A larger fraction adds items to a smaller one.
    """
    return sample_frac >= 1.0 or int(hashing.sha256_bytes(url.encode())[:8], 16) < sample_frac * 2**32


def limit_items(
    items: Iterable[SourceItem | DroppedItem], limit: int | None, sample_frac: float = 1.0
) -> Iterator[SourceItem | DroppedItem]:
    """Keep a fraction of the items, and end after `limit` of them.

    The fraction is chosen by a hash of the URL.
    """
    count = 0
    for item in items:
        is_item = isinstance(item, SourceItem)
        if is_item and not is_sampled(item.url, sample_frac):
            yield DroppedItem(item.url, DropReason("not-sampled"), item.size)
            continue
        yield item
        count += is_item
        if count == limit:
            return


def decode_items(items: Iterable[SourceItem | DroppedItem], decoder: ItemDecoder) -> Iterator[FetchResult]:
    """Yield the result of every item, decoded or dropped with its reason."""
    for item in items:
        result = item.drop if isinstance(item, DroppedItem) else _decode(item, decoder)
        if isinstance(result, DropReason):
            yield FetchResult(item.url, "failed" if result.failed else "skipped", result.reason, None, item.size, 0, 0.0, None)
        else:
            fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
            yield FetchResult(item.url, "record", "", None, item.size, 0, 0.0, result, fetched_at)


def escape_result(result: FetchResult) -> FetchResult:
    """Escape what is no UTF-8 in the URL and the metadata of a result.

    One such string must not end a scrape.
    """
    record = result.record
    try:
        result.url.encode()
        if record is not None:
            json.dumps([record.source, record.metadata], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        url = result.url.encode("utf-8", "backslashreplace").decode()
        if record is not None:
            source = record.source.encode("utf-8", "backslashreplace").decode()
            metadata = json.loads(json.dumps(dict(record.metadata), ensure_ascii=False).encode("utf-8", "replace"))
            record = replace(record, source=source, metadata=metadata)
        return replace(result, url=url, record=record)
    return result


def _decode(item: SourceItem, decoder: ItemDecoder) -> Record | DropReason:
    """Decode one item; a decoder that raises gives the reason `unreadable`."""
    if item.content.startswith(LFS_POINTER):
        return DropReason("lfs-pointer")
    try:
        return decoder.decode(item)
    except Exception:  # no item may end a scrape, whatever its parser raises
        return DropReason("unreadable", failed=True)


@cache
def compile_glob(glob: str) -> re.Pattern[str]:
    """Compile a path pattern.

    `*` and `?` do not cross folders, `**/` matches any number of folders, also none.
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    glob_regexes = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(glob_regexes.get(part, re.escape(part)) for part in parts))


def matches_any(path: str, globs: Sequence[str]) -> bool:
    """Tell whether one of the path patterns matches."""
    return any(compile_glob(glob).fullmatch(path) for glob in globs)


def skip_reason(path: str, include: Sequence[str], exclude: Sequence[str]) -> str:
    """Return why a source skips the file at `path`; "" if it does not.

    An empty `include` matches every file.
    """
    if include and not matches_any(path, include):
        return "not-included"
    return "excluded" if matches_any(path, exclude) else ""
