"""Scraped records in; out, the records worth training on, and a table of the others with the reason for each."""

from collections.abc import Iterable, Iterator
from typing import Any

from provenlm.core import files, plugin
from provenlm.core import record as records
from provenlm.core.errors import UserError
from provenlm.core.progress import progress
from provenlm.core.record import Record
from provenlm.corpus import filter_figures as figures
from provenlm.corpus import filtering
from provenlm.corpus.filtering import Judged
from stages import stage


def body(run: stage.Run) -> None:
    face = plugin.load("domains", run.row["domain"], "filter", plugin.Filtering)
    settings: Any = run.settings("filter", face.settings)
    source = run.reads(run.layout.corpus(run.subject, "scraped"))
    target = run.writes(run.layout.corpus(run.subject, "filtered"))
    tally = figures.Tally()
    with (
        files.new_folder(target) as folder,
        filtering.Dropped(folder / "dropped.parquet") as dropped,
        progress(f"filter {run.subject}", "records", records.count(source)) as bar,
    ):

        def sift(judged: Iterable[Judged]) -> Iterator[Record]:
            for item in judged:
                bar.advance()
                tally.add(item)
                if item.reason is None:
                    yield item.record.with_facts(score=round(item.score, 6))
                else:
                    dropped.add(item)

        judged = run.records(source).map(filtering.judging(face, settings))
        kept = records.write(sift(item for _, item in judged), folder)
        if kept == 0:
            raise UserError(
                f"{run.params.where('corpora', run.subject, 'filter')}: no record is left; {figures.told(tally.reasons)}"
            )
    figures.record(run.audit, tally)


if __name__ == "__main__":
    stage.main("filter", "corpora", body, __doc__)
