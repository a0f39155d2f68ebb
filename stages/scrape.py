"""Fetch the sources of a corpus; write its records and the outcome of every URL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import interfaces, io, records, registry
from provenlm.core.errors import DataError, ProvenlmError
from provenlm.core.progress import log_line, progress_bar
from provenlm.core.records import FetchResult, Record
from provenlm.scraping import metrics
from stages import runner

FETCH_SCHEMA = pa.schema(
    [("url", pa.string()), ("state", pa.string()), ("reason", pa.string()), ("status", pa.int32()), ("received_bytes", pa.int64()),
     ("attempts", pa.int32()), ("seconds", pa.float64()), ("fetched_at", pa.string())]
)  # fmt: skip
MAX_BUFFERED_ROWS = 10_000  # outcomes of URLs held in memory


def run_stage(context: runner.StageContext) -> None:
    """Fetch the sources of a corpus and record crawl metrics.

    Raises DataError if no record was obtained.
    """
    spec = registry.load_domain(context.entry["domain"], "scrape", interfaces.ScrapeSpec)
    config: Any = context.parse_section("scrape", spec.config_type)
    records_dir = context.declare_output(context.paths.corpus_dir(context.subject, "scraped"))
    fetches_dir = context.declare_output(context.paths.corpus_dir(context.subject, "fetches"))
    tally = metrics.CrawlTally(_previous_ids(records_dir))
    try:
        with (
            io.atomic_dir(fetches_dir) as new_fetches_dir,
            io.atomic_dir(records_dir) as new_records_dir,
            progress_bar(f"scrape {context.subject}", "URLs") as bar,
            pq.ParquetWriter(new_fetches_dir / "fetches.parquet", FETCH_SCHEMA, compression="zstd") as fetch_writer,
        ):
            fetches = spec.fetch(config, context.paths.crawl_state_dir(context.subject), bar)
            if records.write_records(_tally_fetches(fetches, tally, fetch_writer), new_records_dir) == 0:
                raise DataError("must yield at least one record, got none")
    except ProvenlmError as error:
        raise type(error)(f"{context.params.location('corpora', context.subject, 'scrape')}: {error}") from None
    metrics.record_scrape_metrics(context.recorder, tally)


def _previous_ids(records_dir: Path) -> dict[str, str]:
    """Map source to id for the records of the previous scrape.

    A damaged previous scrape counts as none; this run replaces it.
    """
    try:
        return records.read_ids_by_source(records_dir)
    except ProvenlmError as error:
        log_line(f"{error}; the comparison with the previous scrape is skipped")
        return {}


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


if __name__ == "__main__":
    runner.main("scrape", "corpora", run_stage, __doc__)
