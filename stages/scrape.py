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
from provenlm.core.progress import progress_bar
from provenlm.core.records import FetchResult, Record
from provenlm.scraping import delivery, metrics, state_folder
from provenlm.scraping.crawl import database
from provenlm.scraping.names import check_name
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
    """Write the records and the outcomes; name the section of params.yaml in an error."""
    try:
        with (
            io.atomic_dir(fetches_dir) as new_fetches_dir,
            io.atomic_dir(records_dir) as new_records_dir,
            progress_bar(f"scrape {context.subject}", "URLs") as bar,
            pq.ParquetWriter(new_fetches_dir / "fetches.parquet", FETCH_SCHEMA, compression="zstd") as fetch_writer,
        ):
            fetches = fetch(config, context.paths.crawl_state_dir(context.subject), bar)
            if records.write_records(_tally_fetches(fetches, tally, fetch_writer), new_records_dir) == 0:
                raise DataError("must yield at least one record, got none")
    except ProvenlmError as error:
        raise type(error)(f"{context.params.location('corpora', context.subject, 'scrape')}: {error}") from None


def _tally_fetches(fetches: Iterator[FetchResult], tally: metrics.CrawlTally, fetch_writer: pq.ParquetWriter) -> Iterator[Record]:
    """Yield the records among `fetches`.

    Count every outcome and write it without its content.
    """
    rows: list[dict[str, Any]] = []
    for fetch in fetches:
        tally.add(fetch)
        rows.append({name: getattr(fetch, name) for name in FETCH_SCHEMA.names})
        if len(rows) == MAX_BUFFERED_ROWS:
            fetch_writer.write_table(pa.Table.from_pylist(rows, FETCH_SCHEMA))
            rows.clear()
        if fetch.record is not None:
            yield fetch.record
    fetch_writer.write_table(pa.Table.from_pylist(rows, FETCH_SCHEMA))


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
