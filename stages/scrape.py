"""The world in, records out, and what became of every address: asks the domain's `fetch` and counts what it yields."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from provenlm.core import files, plugin, record
from provenlm.core.errors import UserError
from provenlm.core.progress import progress, say
from provenlm.core.record import Fetch, Record
from provenlm.scraping import figures
from stages import stage


def body(run: stage.Run) -> None:
    face = plugin.load("domains", run.row["domain"], "scrape", plugin.Scraping)
    settings: Any = run.settings("scrape", face.settings)
    out = run.writes(run.layout.corpus(run.subject, "scraped"))
    table = run.writes(run.layout.corpus(run.subject, "fetches"))
    before = _last(out)
    seen = figures.Seen()
    try:
        with files.new_folder(out) as folder, progress(f"scrape {run.subject}", "addresses") as bar:
            found = face.fetch(settings, run.layout.crawl_state(run.subject), bar)
            if record.write(_records(found, seen), folder) == 0:
                raise UserError("nothing that was found became a record")
            with files.new_folder(table) as beside:
                _write(seen.fetches, beside / "fetches.parquet")
    except UserError as error:
        raise UserError(f"{run.params.where('corpora', run.subject, 'scrape')}: {error}") from None
    figures.record(run.audit, seen, before)


def _last(out: Path) -> dict[str, str]:
    """Source and id of each record of the last scrape. Where it is damaged there is nothing to compare with: scraping mends it."""
    try:
        return record.ids(out)
    except UserError as error:
        say(f"{error}; compared with nothing")
        return {}


def _records(found: Iterator[Fetch], seen: figures.Seen) -> Iterator[Record]:
    """The records among `found`; on the way, what happened (without the bodies) is noted."""
    for fetch in found:
        seen.fetches.append(replace(fetch, record=None))
        if fetch.record is not None:
            site = fetch.record.facts.get("site") or urlsplit(fetch.record.source).netloc or fetch.record.source
            seen.sizes.append((site, len(fetch.record.body)))
            seen.ids[fetch.record.source] = fetch.record.id
            yield fetch.record


def _write(fetches: list[Fetch], path: Path) -> None:
    columns = [field.name for field in fields(Fetch) if field.name != "record"]
    table = pd.DataFrame([[getattr(fetch, column) for column in columns] for fetch in fetches], columns=columns)
    table.astype({"status": "Int32"}).to_parquet(path, index=False)


if __name__ == "__main__":
    stage.main("scrape", "corpora", body, __doc__)
