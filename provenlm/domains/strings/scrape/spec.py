"""Read the strings of a corpus from params.yaml or from a file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.errors import DataError
from provenlm.core.interfaces import ScrapeSpec
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult, Record


@dataclass(frozen=True)
class StringsScrapeConfig:
    """Configure where the strings of a corpus come from: `strings` or `file`.

    strings: the strings themselves, none of them empty.
    file: path, relative to the folder of params.yaml, of a JSON list of strings (.json) or of one JSON string per line (.jsonl).
    """

    strings: tuple[str, ...] = ()
    file: str | None = None

    def __post_init__(self) -> None:
        if bool(self.strings) == (self.file is not None):
            raise ValueError(f"strings or file must be given, got {'both' if self.strings else 'neither'}")
        if not all(self.strings):
            raise ValueError("strings must not contain an empty string, got one")


def fetch_records(config: StringsScrapeConfig, state: Path, progress: ProgressReporter) -> Iterator[FetchResult]:
    """Yield one record for each string; `state` is not used."""
    strings = config.strings if config.file is None else read_strings(Path(config.file))
    for index, text in enumerate(strings):
        source = f"{config.file or 'params.yaml'}/{index}"
        record = Record.from_content(text.encode(), "text/plain", source)
        progress.update(total=len(strings))
        yield FetchResult(source, "record", "", None, len(record.content), 0, 0.0, record)


def read_strings(path: Path) -> tuple[str, ...]:
    """Read a JSON list of strings.

    If the suffix is .jsonl, each line is one JSON string.

    Raises DataError if the file is missing, not JSON, or holds anything but non-empty strings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        items = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path.as_posix()}: must be a readable file of JSON strings: {error}") from None
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item for item in items):
        raise DataError(f"{path.as_posix()}: must be a non-empty list of non-empty strings")
    return tuple(items)


SPEC = ScrapeSpec(StringsScrapeConfig, fetch_records)
