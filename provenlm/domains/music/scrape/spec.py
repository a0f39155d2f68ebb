"""Scrape scores.

Sources are folders, git repositories and tables of files, the collections of music21, and procedural pieces.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from provenlm.core.errors import ProvenlmError
from provenlm.core.interfaces import ScrapeSpec
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record
from provenlm.domains.music.content.score import MEDIA_TYPE, write_score
from provenlm.domains.music.scrape.music21_corpus import Music21Source, read_music21, split_tunes
from provenlm.domains.music.scrape.parser_pool import ParserPool
from provenlm.domains.music.scrape.parsers import ABC, MEDIA_TYPES, MIDI, ParseLimits
from provenlm.domains.music.scrape.procedural import compose_piece
from provenlm.scraping.sources.folder import FolderSource, read_folder
from provenlm.scraping.sources.git import GitSource, read_git
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem
from provenlm.scraping.sources.local import skip_repeated
from provenlm.scraping.sources.tables import BINARY, TEXT, TableSource, read_table


@dataclass(frozen=True)
class ProceduralSource:
    """Configure pieces that are composed by rules.

    They are deterministic and in the public domain.
    """

    kind: Literal["procedural"]
    num_pieces: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_pieces < 1:
            raise ValueError(f"num_pieces must be >= 1, got {self.num_pieces}")


@dataclass(frozen=True)
class MusicScrapeConfig:
    """Configure where scores come from.

    max_bytes: size of a file. limits: size of a score. timeout_seconds: time to parse one file.
    num_workers: processes that parse; 0: one for each CPU core. from_cache: reuse git repositories that were fetched before.
    """

    sources: tuple[Music21Source | ProceduralSource | FolderSource | GitSource | TableSource, ...]
    max_bytes: int = 4_000_000
    limits: ParseLimits = field(default_factory=ParseLimits)
    timeout_seconds: float = 60.0
    num_workers: int = 0
    from_cache: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must name at least one source, got none")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be >= 1, got {self.max_bytes}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be > 0, got {self.timeout_seconds}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {self.num_workers}")


Item = SourceItem | DroppedItem | Record


def fetch_records(config: MusicScrapeConfig, state_dir: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    """Yield the outcome of every file, row or piece, in order.

    Files are parsed in parallel.
    """
    limits = asdict(config.limits)
    with ParserPool(config.num_workers or os.cpu_count() or 1, config.timeout_seconds, limits) as pool:

        def parse(item: Item) -> FetchResult:
            return parse_item(item, pool)

        for result in skip_repeated(pool.map(parse, read_items(config, state_dir))):
            progress.update(postfix=result.url[-40:])
            yield result


def read_items(config: MusicScrapeConfig, state_dir: Path) -> Iterator[Item]:
    """Yield the items of all sources.

    A ProvenlmError names the source by its position.
    """
    for index, source in enumerate(config.sources):
        try:
            for item in _read_source(source, config, state_dir):
                if isinstance(item, SourceItem):
                    yield from split_tunes(item)
                else:
                    yield item
        except ProvenlmError as error:
            raise type(error)(f"sources[{index}]: {error}") from None


def _read_source(
    source: Music21Source | ProceduralSource | FolderSource | GitSource | TableSource, config: MusicScrapeConfig, state_dir: Path
) -> Iterator[Item]:
    if isinstance(source, Music21Source):
        return iter(read_music21(source))
    if isinstance(source, ProceduralSource):
        return compose_records(source)
    if isinstance(source, FolderSource):
        return iter(read_folder(source, media_type_of, config.max_bytes))
    if isinstance(source, GitSource):
        return iter(read_git(source, media_type_of, state_dir / "git", config.max_bytes, config.from_cache))
    return iter(read_table(source, config.max_bytes))


def media_type_of(name: str) -> str | None:
    """Return the media type of a file by its suffix; None if it is no score."""
    return MEDIA_TYPES.get(Path(name).suffix.lower())


def compose_records(source: ProceduralSource) -> Iterator[Record]:
    """Yield the pieces of a procedural source.

    Piece n of seed s is the same on every machine.
    """
    metadata = {"site": "procedural", "collection": "procedural", "license": "CC0-1.0"}
    for index in range(source.num_pieces):
        content = write_score(compose_piece(source.seed * 1_000_003 + index))
        yield Record.from_content(content, MEDIA_TYPE, f"procedural:{source.seed}/{index}", **metadata)


def parse_item(item: Item, pool: ParserPool) -> FetchResult:
    """Return the outcome of one item: a record, or why there is none."""
    if isinstance(item, Record):
        return _record_result(item, len(item.content))
    parsed = item.drop if isinstance(item, DroppedItem) else pool.parse(_with_media_type(item))
    if isinstance(parsed, DropReason):
        return FetchResult(item.url, "failed" if parsed.failed else "skipped", parsed.reason, None, item.size, 0, 0.0, None)
    return _record_result(parsed, item.size)


def _record_result(record: Record, size: int) -> FetchResult:
    fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
    return FetchResult(record.source, "record", "", None, size, 0, 0.0, record, fetched_at)


def _with_media_type(item: SourceItem) -> SourceItem:
    """Name the media type of a table row: MIDI for bytes, ABC for text."""
    media_type = {BINARY: MIDI, TEXT: ABC}.get(item.media_type, item.media_type)
    return SourceItem(item.url, item.content, media_type, item.metadata, item.size)


SPEC = ScrapeSpec(MusicScrapeConfig, fetch_records)
