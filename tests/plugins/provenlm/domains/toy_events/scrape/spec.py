"""Scrape binary event files: a header, then two bytes (pitch, duration) for each event."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.interfaces import ScrapeSpec
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.scraping.sources.folder import FolderSource
from provenlm.scraping.sources.items import DropReason, ItemDecoder, SourceItem
from provenlm.scraping.sources.local import fetch_sources

HEADER = b"\x93EVT"  # 0x93 cannot start a UTF-8 text


@dataclass(frozen=True)
class ToyEventsScrapeConfig:
    """Configure the folders to read."""

    sources: tuple[FolderSource, ...]


def decode(item: SourceItem) -> Record | DropReason:
    """Accept whole event files only."""
    if not item.content.startswith(HEADER):
        return DropReason("no-event-file")
    if len(item.content) % 2:
        return DropReason("cut-off", failed=True)
    return Record.from_content(item.content, item.media_type, item.url, **item.metadata)


def fetch_records(config: ToyEventsScrapeConfig, state: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    """Fetch the event files of all folders."""
    return fetch_sources(config.sources, ItemDecoder(decode, {".evt": "application/x-toy-events"}), state, progress)


SPEC = ScrapeSpec(ToyEventsScrapeConfig, fetch_records)
