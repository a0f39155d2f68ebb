"""Scraped records in; out, the records worth training on, and a table of the others with the reason for each."""

from collections.abc import Iterable, Iterator
from typing import Any

from provenlm.core import interfaces, io, records, registry
from provenlm.core.errors import UserError
from provenlm.core.progress import progress
from provenlm.core.records import Record
from provenlm.filtering import metrics as figures
from provenlm.filtering import scoring
from provenlm.filtering.scoring import Judged
from stages import runner


def body(run: runner.Run) -> None:
    face = registry.load_domain(run.row["domain"], "filter", interfaces.Filtering)
    settings: Any = run.settings("filter", face.settings)
    source = run.reads(run.layout.corpus(run.subject, "scraped"))
    target = run.writes(run.layout.corpus(run.subject, "filtered"))
    tally = figures.Tally()
    with (
        io.new_folder(target) as folder,
        scoring.Dropped(folder / "dropped.parquet") as dropped,
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

        judged = run.records(source).map(scoring.judging(face, settings))
        kept = records.write(sift(item for _, item in judged), folder)
        if kept == 0:
            raise UserError(
                f"{run.params.where('corpora', run.subject, 'filter')}: no record is left; {figures.told(tally.reasons)}"
            )
    figures.record(run.audit, tally)


if __name__ == "__main__":
    runner.main("filter", "corpora", body, __doc__)
