"""Fetch the sources of a corpus; write its records and the outcome of every URL."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import interfaces, io, records, registry
from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line, progress_bar
from provenlm.core.records import FetchResult, Record
from provenlm.scraping import delivery, metrics, state_folder
from provenlm.scraping.crawl import database
from provenlm.scraping.names import check_name
from provenlm.scraping.sources.items import escape_result
from provenlm.scraping.sources.outcomes import most_frequent_reason
from stages import runner

FETCH_SCHEMA = pa.schema(
    [("url", pa.string()), ("state", pa.string()), ("reason", pa.string()), ("status", pa.int32()), ("received_bytes", pa.int64()),
     ("attempts", pa.int32()), ("seconds", pa.float64()), ("fetched_at", pa.string())]
)  # fmt: skip
DVC_STAGE = "DVC_STAGE"  # environment variable that DVC sets for the stages that it runs
MAX_BUFFERED_ROWS = 10_000  # outcomes of URLs held in memory


def run_stage(context: runner.StageContext) -> None:
    """Fetch the sources of a corpus and record crawl metrics.

    Raises DataError if no record was obtained.
    """
    check_name(context.params.file, "corpora", context.subject)
    spec = registry.load_domain(context.entry["domain"], "scrape", interfaces.ScrapeSpec)
    config: Any = context.parse_section("scrape", spec.config_type)
    records_dir = context.declare_output(context.paths.corpus_dir(context.subject, "scraped"))
    fetches_dir = context.declare_output(context.paths.corpus_dir(context.subject, "fetches"))
    state_dir = context.paths.crawl_state_dir(context.subject)
    with state_folder.hold_lock(state_dir / "scrape.lock"), state_folder.readable_disk_errors(state_dir):
        if DVC_STAGE in os.environ:
            delivery.reopen_unrecorded(state_dir, context.paths.dvc_lock)
        tally = metrics.CrawlTally(delivery.previous_ids(state_dir, records_dir))
        _write_outputs(context, spec.fetch, config, tally, records_dir, fetches_dir)
    metrics.record_scrape_metrics(context.recorder, tally)
    metrics.record_sitemap_metrics(context.recorder, database.sitemap_outcomes(state_dir))


def _write_outputs(
    context: runner.StageContext,
    fetch: Callable[..., Iterator[FetchResult]],
    config: Any,
    tally: metrics.CrawlTally,
    records_dir: Path,
    fetches_dir: Path,
) -> None:
    """Write the records and the outcomes, and say what became of everything.

    An error names the section of params.yaml.
    """
    error: Exception | None = None
    with io.atomic_dir(fetches_dir) as new_fetches_dir:  # kept if the scrape fails, because it holds the reasons
        try:
            with (
                io.atomic_dir(records_dir) as new_records_dir,
                progress_bar(f"scrape {context.subject}", "URLs") as bar,
                FetchWriter(new_fetches_dir / "fetches.parquet") as fetch_writer,
            ):
                fetches = fetch(config, context.paths.crawl_state_dir(context.subject), bar)
                if records.write_records(_tally_fetches(fetches, tally, fetch_writer), new_records_dir) == 0:
                    reason = most_frequent_reason(tally.outcomes, tally.examples)
                    raise DataError(f"must yield at least one record, got none: {reason}")
        except Exception as exception:
            error = exception
    log_line(f"scrape@{context.subject}: scraped {tally.summary()}")
    if isinstance(error, ProvenlmError):
        raise type(error)(f"{context.params.location('corpora', context.subject, 'scrape')}: {error}") from None
    if error is not None:
        raise error


class FetchWriter:
    """Write the outcomes of URLs, without their content, to a Parquet file."""

    def __init__(self, path: Path) -> None:
        self.writer = pq.ParquetWriter(path, FETCH_SCHEMA, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> "FetchWriter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, fetch: FetchResult) -> None:
        """Write one outcome, buffered."""
        self.rows.append({name: getattr(fetch, name) for name in FETCH_SCHEMA.names})
        if len(self.rows) == MAX_BUFFERED_ROWS:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, FETCH_SCHEMA))
        self.rows.clear()


def _tally_fetches(fetches: Iterator[FetchResult], tally: metrics.CrawlTally, fetch_writer: FetchWriter) -> Iterator[Record]:
    """Yield the records among `fetches`.

    Count every outcome and write it without its content.
    """
    for fetch in map(escape_result, fetches):
        tally.add(fetch)
        fetch_writer.add(fetch)
        if fetch.record is not None:
            yield fetch.record


def main() -> None:
    """Run the stage and, once its audit stands, finish the scrape."""
    paths = ProjectPaths(Path.cwd())
    try:
        with state_folder.readable_disk_errors(paths.root):
            runner.main("scrape", "corpora", run_stage, __doc__)
            subject = sys.argv[1]
            delivery.deliver(paths.crawl_state_dir(subject), paths.audit_json(subject, "scrape"), DVC_STAGE in os.environ)
    except ProvenlmError as error:
        sys.exit(f"scrape: {error}")


if __name__ == "__main__":
    main()
