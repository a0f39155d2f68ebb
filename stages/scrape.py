"""The world in, records out, and what became of every address: asks the domain's `fetch` and counts what it yields."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from provenlm.core import files, plugin, record
from provenlm.core.errors import UserError
from provenlm.core.progress import progress
from provenlm.core.record import Fetch, Record
from provenlm.scraping import figures
from stages import stage


def body(run: stage.Run) -> None:
    face = plugin.load("domains", run.row["domain"], "scrape", plugin.Scraping)
    settings: Any = run.settings("scrape", face.settings)
    out = run.writes(run.layout.corpus(run.subject, "scraped"))
    fetches: list[Fetch] = []
    sizes: list[tuple[str, int]] = []  # of each record: its source, bytes of its body
    try:
        with files.new_folder(out) as folder, progress(f"scrape {run.subject}", "addresses") as bar:
            found = face.fetch(settings, run.layout.crawl_state(run.subject), bar)
            if record.write(_records(found, fetches, sizes), folder) == 0:
                raise UserError("nothing that was found became a record")
            columns = [field.name for field in fields(Fetch) if field.name != "record"]
            table = pd.DataFrame([[getattr(fetch, column) for column in columns] for fetch in fetches], columns=columns)
            table.astype({"status": "Int32"}).to_parquet(folder / "fetches.parquet", index=False)
    except UserError as error:
        raise UserError(f"{run.params.where('corpora', run.subject, 'scrape')}: {error}") from None
    figures.record(run.audit, fetches, sizes)


def _records(found: Iterator[Fetch], fetches: list[Fetch], sizes: list[tuple[str, int]]) -> Iterator[Record]:
    """The records among `found`; on the way, what happened (without the bodies) is noted."""
    for fetch in found:
        fetches.append(replace(fetch, record=None))
        if fetch.record is not None:
            site = fetch.record.facts.get("site") or urlsplit(fetch.record.source).netloc or fetch.record.source
            sizes.append((site, len(fetch.record.body)))
            yield fetch.record


if __name__ == "__main__":
    stage.main("scrape", "corpora", body, __doc__)
