"""Fetch the records of folder, git and table sources with the decoder of a domain."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.progress import ProgressReporter
from provenlm.core.records import FetchResult
from provenlm.scraping.sources.folder import FolderSource, read_folder
from provenlm.scraping.sources.git import GitSource, read_git
from provenlm.scraping.sources.items import ItemDecoder, decode_items
from provenlm.scraping.sources.outcomes import most_frequent_reason
from provenlm.scraping.sources.record_folder import RecordFolderSource, read_record_folder
from provenlm.scraping.sources.tables import TableSource, read_table

LocalSource = FolderSource | GitSource | TableSource | RecordFolderSource


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
    elif isinstance(source, RecordFolderSource):
        items = read_record_folder(source, max_bytes)
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
    """Report the progress of a source and name it in its errors.

    Raises DataError if it yields no record.
    """
    try:
        for result in require_record(results):
            progress.update(postfix=result.url[-40:])
            yield result
    except ProvenlmError as error:
        raise type(error)(f"sources[{index}]: {error}") from None


def require_record(results: Iterable[FetchResult]) -> Iterator[FetchResult]:
    """Yield the results and raise a DataError if none is a record.

    The error names the most frequent reason.
    """
    num_records, outcomes, examples = 0, Counter[tuple[str, str]](), dict[tuple[str, str], str]()
    error = "must yield at least one record, got none"
    try:
        for result in results:
            num_records += result.record is not None
            outcomes[result.state, result.reason] += 1
            examples.setdefault((result.state, result.reason), result.url)
            yield result
    except DataError as data_error:
        if num_records or not outcomes:
            raise
        error = str(data_error)
    if num_records:
        return
    if not outcomes:
        raise DataError("must yield at least one record, got no file, row or response")
    raise DataError(f"{error}: {most_frequent_reason(outcomes, examples)}")


def skip_repeated(results: Iterable[FetchResult]) -> Iterator[FetchResult]:
    """Skip results whose URL occurred before, with the reason `repeated`.

    The first record of a URL is kept, even if an earlier result of the URL was none.
    """
    url_counts: Counter[str] = Counter()
    urls_of_records: set[str] = set()
    for result in results:
        url_counts[result.url] += 1
        is_repeated = result.url in urls_of_records
        if result.record is not None:
            urls_of_records.add(result.url)
        if (count := url_counts[result.url]) == 1:
            yield result
        elif result.record is None or is_repeated:
            yield replace(result, url=f"{result.url} ({count})", state="skipped", reason="repeated", record=None)
        else:
            yield replace(result, url=f"{result.url} ({count})")
