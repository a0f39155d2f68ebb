"""The world in, records out, and what became of every address: asks the domain's `fetch` and counts what it yields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import interfaces, io, records, registry
from provenlm.core.errors import UserError
from provenlm.core.progress import progress, say
from provenlm.core.records import Fetch, Record
from provenlm.scraping import metrics
from stages import runner

FATES = pa.schema(
    [("url", pa.string()), ("state", pa.string()), ("reason", pa.string()), ("status", pa.int32()), ("bytes", pa.int64()),
     ("tries", pa.int32()), ("seconds", pa.float64()), ("fetched_at", pa.string())]
)  # fmt: skip
ROWS = 10_000  # of fates held in memory


def body(run: runner.Run) -> None:
    face = registry.load_domain(run.row["domain"], "scrape", interfaces.Scraping)
    settings: Any = run.settings("scrape", face.settings)
    out = run.writes(run.layout.corpus(run.subject, "scraped"))
    table = run.writes(run.layout.corpus(run.subject, "fetches"))
    seen = metrics.Seen(_last(out))
    try:
        with (
            io.new_folder(table) as beside,
            io.new_folder(out) as folder,
            progress(f"scrape {run.subject}", "addresses") as bar,
            pq.ParquetWriter(beside / "fetches.parquet", FATES, compression="zstd") as fates,
        ):
            found = face.fetch(settings, run.layout.crawl_state(run.subject), bar)
            if records.write(_records(found, seen, fates), folder) == 0:
                raise UserError("nothing that was found became a record")
    except UserError as error:
        raise UserError(f"{run.params.where('corpora', run.subject, 'scrape')}: {error}") from None
    metrics.record(run.audit, seen)


def _last(out: Path) -> dict[str, str]:
    """Source and id of each record of the last scrape. Where it is damaged there is nothing to compare with: scraping mends it."""
    try:
        return records.ids(out)
    except UserError as error:
        say(f"{error}; compared with nothing")
        return {}


def _records(found: Iterator[Fetch], seen: metrics.Seen, fates: pq.ParquetWriter) -> Iterator[Record]:
    """The records among `found`; on the way, what happened (without the bodies) is noted and written."""
    rows: list[dict[str, Any]] = []
    for fetch in found:
        seen.add(fetch)
        rows.append({name: getattr(fetch, name) for name in FATES.names})
        if len(rows) == ROWS:
            fates.write_table(pa.Table.from_pylist(rows, FATES))
            rows.clear()
        if fetch.record is not None:
            yield fetch.record
    fates.write_table(pa.Table.from_pylist(rows, FATES))


if __name__ == "__main__":
    runner.main("scrape", "corpora", body, __doc__)
