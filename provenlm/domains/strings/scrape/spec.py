"""Strings from params.yaml in, a record of each out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.interfaces import Scraping
from provenlm.core.progress import Progress
from provenlm.core.records import Fetch, Record


@dataclass(frozen=True)
class Settings:
    """The corpus itself: `strings`, none of them empty."""

    strings: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise ValueError("strings: at least one, and none of them empty")


def fetch(settings: Settings, state: Path, progress: Progress) -> Iterator[Fetch]:
    """One record a string; nothing is fetched, so `state` stays empty."""
    for place, text in enumerate(settings.strings):
        source = f"params.yaml/{place}"
        record = Record.of(text.encode(), "text/plain", source)
        progress.advance(total=len(settings.strings))
        yield Fetch(source, "record", "", None, len(record.body), 0, 0.0, record)


SPEC = Scraping(Settings, fetch)
