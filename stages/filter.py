"""Filter the scraped records of a corpus.

Write the kept records and a table of drop reasons.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from provenlm.core import interfaces, io, records, registry
from provenlm.core.errors import DataError
from provenlm.core.progress import log_line, progress_bar
from provenlm.core.records import Record
from provenlm.filtering import metrics, scoring
from provenlm.filtering.scoring import FilterDecision
from stages import runner


def run_stage(context: runner.StageContext) -> None:
    """Filter a corpus and record filter metrics.

    Raises DataError if every record is dropped.
    """
    spec = registry.load_domain(context.entry["domain"], "filter", interfaces.FilterSpec)
    config: Any = context.parse_section("filter", spec.config_type)
    source = context.declare_input(context.paths.corpus_dir(context.subject, "scraped"))
    target = context.declare_output(context.paths.corpus_dir(context.subject, "filtered"))
    tally = metrics.FilterTally()
    with (
        io.atomic_dir(target) as folder,
        scoring.ExclusionWriter(folder / "dropped.parquet") as exclusions,
        progress_bar(f"filter {context.subject}", "records", records.count_records(source)) as bar,
    ):

        def kept_records(decisions: Iterable[FilterDecision]) -> Iterator[Record]:
            for decision in decisions:
                bar.update()
                tally.add(decision)
                if decision.drop_reason is None:
                    yield decision.record.with_metadata(score=round(decision.score, 6))
                else:
                    exclusions.add(decision)

        results = context.open_records(source).map(scoring.make_filter_step(spec, config))
        num_kept = records.write_records(kept_records(item for _, item in results), folder)
        for warning in metrics.language_warnings(tally):
            log_line(f"filter@{context.subject}: {warning}")
        if num_kept == 0:
            location = context.params.location("corpora", context.subject, "filter")
            raise DataError(f"{location}: must keep at least one record, got none; {metrics.drop_summary(tally.drop_reasons)}")
    log_line(f"filter@{context.subject}: {metrics.outcome_summary(tally)}")
    metrics.record_filter_metrics(context.recorder, tally, spec.describe_count)


if __name__ == "__main__":
    runner.main("filter", "corpora", run_stage, __doc__)
