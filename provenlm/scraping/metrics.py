"""What became of every address in, one by one; counts by state and reason, sizes, sources, and what changed since the last scrape out."""

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pandas as pd

from provenlm.core import audit
from provenlm.core.records import FetchResult, Record

SIZE_BIN_EDGES = [0, *(1 << power for power in range(6, 23))]  # bytes of text: 0, 64, 128 … 4 MiB
UrlOutcome = tuple[str, str]  # state and reason


@dataclass
class CrawlTally:
    """What a scrape notes on the way; nothing of it grows with the bodies. `before`: the last scrape's ids by source, used up."""

    previous_ids: dict[str, str]
    outcomes: Counter[UrlOutcome] = field(default_factory=Counter)
    examples: dict[UrlOutcome, str] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    sites: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # records, bytes

    def add(self, fetch: FetchResult) -> None:
        """Note one address."""
        self.outcomes[fetch.state, fetch.reason] += 1
        self.examples.setdefault((fetch.state, fetch.reason), fetch.url)
        counts = {
            "tries": fetch.attempts,
            "retries": max(0, fetch.attempts - 1),
            "unchanged": fetch.status == 304,
            "received": fetch.received_bytes,
        }
        self.totals.update(counts)
        self.seconds += fetch.seconds
        if fetch.record is not None:
            self._add_record(fetch.record)

    def _add_record(self, record: Record) -> None:
        self.sizes.append(len(record.content))
        site = self.sites[record.metadata.get("site") or urlsplit(record.source).netloc or record.source]
        site[0], site[1] = site[0] + 1, site[1] + len(record.content)
        previous_id = self.previous_ids.pop(record.source, None)
        self.changes["added" if previous_id is None else "same" if previous_id == record.id else "changed"] += 1


def record_scrape_metrics(recorder: audit.MetricRecorder, tally: CrawlTally) -> None:
    """All that `seen` noted."""
    num_urls, state_counts = tally.outcomes.total(), Counter[str]()
    for (state, _), count in tally.outcomes.items():
        state_counts[state] += count
    recorder.add_count("addresses", num_urls, "addresses", "addresses seen; each ended in exactly one state")
    recorder.add_count("records", len(tally.sizes), "records", "addresses that became a record")
    recorder.add_count(
        "refused", state_counts["refused"], "addresses", "addresses that were not asked for, or whose answer was not wanted"
    )
    recorder.add_count("failed", state_counts["failed"], "addresses", "addresses that were asked for and not had")
    unaccounted = num_urls - len(tally.sizes) - state_counts["refused"] - state_counts["failed"]
    recorder.add_count("balance", unaccounted, "addresses", "addresses - records - refused - failed: anything but 0 is a loss")
    _record_changes(recorder, tally)
    reasons = _record_reasons(recorder, tally)
    totals, size = tally.totals, sum(tally.sizes)
    recorder.add_count("requests", totals["tries"], "requests", "requests sent for pages (robots.txt and sitemaps not included)")
    recorder.add_count("retries", totals["retries"], "requests", "requests that repeated one before")
    recorder.add_count("unchanged", totals["unchanged"], "records", "pages that had not changed since the last crawl")
    recorder.add_count("bytes_received", totals["received"], "bytes", "bodies received, decompressed")
    recorder.add_count("bytes", size, "bytes", "bodies of all records")
    recorder.add_count("bytes_per_record", round(size / len(tally.sizes), 1), "bytes", "mean size of a record's body")
    recorder.add_measurement("waiting_seconds", round(tally.seconds, 3), "s", "time spent on requests, pauses included")
    bin_counts = pd.cut(pd.Series(tally.sizes), [*SIZE_BIN_EDGES, float("inf")], right=False).value_counts(sort=False).tolist()
    recorder.series.append(
        audit.PlotSeries(
            "lengths",
            "bars",
            "sizes of the records' bodies",
            "bytes",
            "records",
            [*SIZE_BIN_EDGES, SIZE_BIN_EDGES[-1] * 2],
            {"records": bin_counts},
        )
    )
    rows: list[list[audit.MetricValue]] = [[site, *counts] for site, counts in sorted(tally.sites.items())]
    recorder.tables.append(audit.AuditTable("sources", "where the records come from", ["source", "records", "bytes"], rows))
    recorder.tables.append(reasons)


def _record_changes(recorder: audit.MetricRecorder, tally: CrawlTally) -> None:
    """Two scrapes by the sources of their records: same source and another id is a change."""
    changes = tally.changes
    recorder.add_count("records.added", changes["added"], "records", "records whose source the last scrape here did not have")
    recorder.add_count(
        "records.changed", changes["changed"], "records", "records whose body is another than at the last scrape here"
    )
    recorder.add_count("records.same", changes["same"], "records", "records as they were at the last scrape here")
    recorder.add_count(
        "records.gone", len(tally.previous_ids), "records", "records of the last scrape here that this one does not have"
    )


def _record_reasons(recorder: audit.MetricRecorder, tally: CrawlTally) -> audit.AuditTable:
    rows: list[list[audit.MetricValue]] = []
    for (state, reason), count in sorted(tally.outcomes.items()):
        if reason:
            stale_description = f"records that are {reason}: as they were before"
            description = stale_description if state == "record" else f"addresses {state} because of: {reason}"
            recorder.add_count(f"{state}.{reason}", count, "addresses", description)
            rows.append([state, reason, count, tally.examples[state, reason][:200]])
    columns = ["state", "reason", "addresses", "example"]
    return audit.AuditTable("reasons", "why addresses are no records, with the first of each", columns, rows)
