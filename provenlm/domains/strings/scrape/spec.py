"""Strings from params.yaml in, a record of each out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.interfaces import ScrapeSpec
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record


@dataclass(frozen=True)
class StringsScrapeConfig:
    """The corpus itself: `strings`, none of them empty."""

    strings: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise ValueError("strings: at least one, and none of them empty")


def fetch_records(config: StringsScrapeConfig, state: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    """One record a string; nothing is fetched, so `state` stays empty."""
    for index, text in enumerate(config.strings):
        source = f"params.yaml/{index}"
        record = Record.from_content(text.encode(), "text/plain", source)
        progress.update(total=len(config.strings))
        yield FetchResult(source, "record", "", None, len(record.content), 0, 0.0, record)


SPEC = ScrapeSpec(StringsScrapeConfig, fetch_records)
