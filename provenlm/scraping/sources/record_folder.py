"""Read the records that a stage of another corpus wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provenlm.core import records
from provenlm.core.errors import ConfigError
from provenlm.scraping.sources.items import DroppedItem, DropReason, SourceItem, check_sample, limit_items


@dataclass(frozen=True)
class RecordFolderSource:
    """Configure the records of another corpus as a source."""

    kind: Literal["records"]
    path: str  # such as data/NAME/deduped: a folder of shards 00000.parquet, 00001.parquet …
    license: str | None = None  # of records without a license
    limit: int | None = None  # records to read, for a trial run; null: all
    sample_frac: float = 1.0  # fraction of the records to keep, chosen by a hash of their source

    def __post_init__(self) -> None:
        check_sample(self.limit, self.sample_frac)


def read_record_folder(source: RecordFolderSource, max_bytes: int) -> Iterator[SourceItem | DroppedItem]:
    """Yield every record with its media type and metadata.

    Raises ConfigError if the folder does not exist, DataError if it holds no records.
    """
    folder = Path(source.path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"path must be an existing folder, got {source.path!r}")
    yield from limit_items(_read_records(folder, source, max_bytes), source.limit, source.sample_frac)


def _read_records(folder: Path, source: RecordFolderSource, max_bytes: int) -> Iterator[SourceItem | DroppedItem]:
    license_field = {"license": source.license} if source.license else {}
    for record in records.read_records(folder):
        if len(record.content) > max_bytes:
            yield DroppedItem(record.source, DropReason("too-large"), len(record.content))
        else:
            metadata = {"site": source.path, **license_field, **record.metadata}
            is_text = record.media_type.startswith("text/") and ";" not in record.media_type  # records hold UTF-8
            media_type = f"{record.media_type}; charset=utf-8" if is_text else record.media_type
            yield SourceItem(record.source, record.content, media_type, metadata, len(record.content))
