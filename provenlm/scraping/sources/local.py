"""Fetch the records of folder, git and table sources with the decoder of a domain."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.scraping.sources.folder import FolderSource, read_folder
from provenlm.scraping.sources.git import GitSource, read_git
from provenlm.scraping.sources.items import ItemDecoder, decode_items
from provenlm.scraping.sources.tables import TableSource, read_table

LocalSource = FolderSource | GitSource | TableSource


def fetch_source(
    source: LocalSource, decoder: ItemDecoder, state_dir: Path, max_bytes: int, from_cache: bool
) -> Iterator[FetchResult]:
    """Yield the result of every item of one source.

    `max_bytes` limits the content of an item; `state_dir` keeps fetched repositories, which `from_cache` reuses.
    """
    if isinstance(source, FolderSource):
        items = read_folder(source, decoder.media_type_of, max_bytes)
    elif isinstance(source, GitSource):
        items = read_git(source, decoder.media_type_of, state_dir / "git", max_bytes, from_cache)
    else:
        items = read_table(source, max_bytes)
    return decode_items(items, decoder)


def fetch_sources(
    sources: Sequence[LocalSource],
    decoder: ItemDecoder,
    state_dir: Path,
    progress: ProgressReporter,
    max_bytes: int = 4_000_000,
    from_cache: bool = False,
) -> Iterator[FetchResult]:
    """Yield the results of several sources; the `fetch` of a domain without web.

    A ProvenlmError names the source by its position.
    """
    return skip_repeated(_fetch_each(sources, decoder, state_dir, progress, max_bytes, from_cache))


def _fetch_each(
    sources: Sequence[LocalSource],
    decoder: ItemDecoder,
    state_dir: Path,
    progress: ProgressReporter,
    max_bytes: int,
    from_cache: bool,
) -> Iterator[FetchResult]:
    for index, source in enumerate(sources):
        yield from named_source(index, fetch_source(source, decoder, state_dir, max_bytes, from_cache), progress)


def named_source(index: int, results: Iterable[FetchResult], progress: ProgressReporter) -> Iterator[FetchResult]:
    """Report the progress of a source and name it in its errors."""
    try:
        for result in results:
            progress.update(postfix=result.url[-40:])
            yield result
    except ProvenlmError as error:
        raise type(error)(f"sources[{index}]: {error}") from None


def skip_repeated(results: Iterable[FetchResult]) -> Iterator[FetchResult]:
    """Skip results whose URL occurred before, with the reason `repeated`."""
    url_counts: Counter[str] = Counter()
    for result in results:
        url_counts[result.url] += 1
        if (count := url_counts[result.url]) > 1:
            yield replace(result, url=f"{result.url} ({count})", state="skipped", reason="repeated", record=None)
        else:
            yield result
