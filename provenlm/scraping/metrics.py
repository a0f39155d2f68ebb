"""Count the outcomes, sizes, sources and changes of a scrape."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pandas as pd

from provenlm.core import audit
from provenlm.core.records import FetchResult, Record

SIZE_BIN_EDGES = [0, *(1 << power for power in range(6, 23))]  # bytes of text: 0, 64, 128 … 4 MiB
UrlOutcome = tuple[str, str]  # state and reason
STANDARD_CHECKS = {"unaccounted": audit.Check("== 0", "URLs were lost: each must have exactly one outcome; see fetches.parquet")}


@dataclass
class CrawlTally:
    """Count the outcomes of a scrape; the size does not grow with the content.

    `previous_ids` maps the sources of the last scrape to record ids; entries that occur again are removed.
    """

    previous_ids: dict[str, str]
    outcomes: Counter[UrlOutcome] = field(default_factory=Counter)
    examples: dict[UrlOutcome, str] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    sites: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # records, bytes

    def add(self, fetch: FetchResult) -> None:
        """Count one result."""
        self.outcomes[fetch.state, fetch.reason] += 1
        self.examples.setdefault((fetch.state, fetch.reason), fetch.url)
        counts = {
            "requests": fetch.attempts,
            "retries": max(0, fetch.attempts - 1),
            "not_modified": fetch.status == 304,
            "received_bytes": fetch.received_bytes,
        }
        self.totals.update(counts)
        self.seconds += fetch.seconds
        if fetch.record is not None:
            self._add_record(fetch.record)

    def summary(self) -> str:
        """Say what became of everything.

        Such as `2 records; 25 failed: json 25; 5 skipped: repeated 5`.
        """
        parts = [f"{len(self.sizes)} records"]
        for state in ("record", "failed", "skipped"):
            counts = Counter({reason: count for (outcome, reason), count in self.outcomes.items() if outcome == state and reason})
            reasons = ", ".join(
                f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            )
            if counts:
                parts.append(f"{counts.total()} {'of the last scrape' if state == 'record' else state}: {reasons}")
        return "; ".join(parts)

    def _add_record(self, record: Record) -> None:
        self.sizes.append(len(record.content))
        site = self.sites[record.metadata.get("site") or urlsplit(record.source).netloc or record.source]
        site[0], site[1] = site[0] + 1, site[1] + len(record.content)
        previous_id = self.previous_ids.pop(record.source, None)
        self.changes["added" if previous_id is None else "unchanged" if previous_id == record.id else "changed"] += 1


def record_sitemap_metrics(recorder: audit.MetricRecorder, outcomes: Sequence[tuple[str, str, int]]) -> None:
    """Record how many sitemaps were read and failed, and why.

    `outcomes` holds URL, reason of a failure and number of pages of each.
    """
    if not outcomes:
        return
    num_failed = sum(bool(reason) for _, reason, _ in outcomes)
    recorder.add_count("sitemaps.read", len(outcomes) - num_failed, "sitemaps", "sitemaps that were read")
    recorder.add_count("sitemaps.failed", num_failed, "sitemaps", "sitemaps that were listed but could not be read")
    recorder.add_count("sitemaps.pages", sum(pages for *_, pages in outcomes), "URLs", "URLs of pages that the sitemaps list")
    failures: list[list[audit.MetricValue]] = [[url[:200], reason] for url, reason, _ in outcomes if reason]
    recorder.tables.append(audit.AuditTable("sitemaps", "sitemaps that could not be read", ["sitemap", "reason"], failures))


def record_scrape_metrics(recorder: audit.MetricRecorder, tally: CrawlTally) -> None:
    """Record the metrics, histogram, tables and standard checks of a scrape."""
    for name, check in STANDARD_CHECKS.items():
        recorder.add_check(name, check.expect, check.hint)
    num_urls, state_counts = tally.outcomes.total(), Counter[str]()
    for (state, _), count in tally.outcomes.items():
        state_counts[state] += count
    recorder.add_count(
        "urls.seen", num_urls, "URLs", "URLs, files and rows seen by the scrape; each ends as a record, skipped or failed"
    )
    recorder.add_count("records", len(tally.sizes), "records", "URLs, files and rows that became a record")
    recorder.add_count("urls.skipped", state_counts["skipped"], "URLs", "URLs, files and rows that the rules of the crawl excluded")
    recorder.add_count("urls.failed", state_counts["failed"], "URLs", "URLs, files and rows that could not be fetched or read")
    unaccounted = num_urls - len(tally.sizes) - state_counts["skipped"] - state_counts["failed"]
    recorder.add_count("unaccounted", unaccounted, "URLs", "urls.seen - records - urls.skipped - urls.failed; 0 if no URL was lost")
    _record_changes(recorder, tally)
    reasons = _record_reasons(recorder, tally)
    totals, size = tally.totals, sum(tally.sizes)
    recorder.add_count(
        "requests", totals["requests"], "requests", "HTTP requests for pages, without those for robots.txt and sitemaps"
    )
    recorder.add_count("retries", totals["retries"], "requests", "HTTP requests that repeated a failed request for the same page")
    recorder.add_count("download.not_modified", totals["not_modified"], "pages", "pages whose server answered 304 Not Modified")
    recorder.add_count(
        "download.bytes", totals["received_bytes"], "bytes", "decompressed bytes of all response bodies, files and rows"
    )
    recorder.add_count("bytes", size, "bytes", "content of all records")
    recorder.add_count("bytes_per_record", round(size / len(tally.sizes), 1), "bytes", "mean content size of a record")
    recorder.add_measurement(
        "download.seconds", round(tally.seconds, 3), "s", "time of all requests, summed over hosts, delays included"
    )
    bin_counts = pd.cut(pd.Series(tally.sizes), [*SIZE_BIN_EDGES, float("inf")], right=False).value_counts(sort=False).tolist()
    recorder.series.append(
        audit.PlotSeries(
            "lengths",
            "hist",
            "content size of the records",
            "bytes",
            "records",
            [*SIZE_BIN_EDGES, SIZE_BIN_EDGES[-1] * 2],
            {"records": bin_counts},
        )
    )
    rows: list[list[audit.MetricValue]] = [[site, *counts] for site, counts in sorted(tally.sites.items())]
    recorder.tables.append(audit.AuditTable("sources", "records and bytes by source", ["source", "records", "bytes"], rows))
    recorder.tables.append(reasons)


def _record_changes(recorder: audit.MetricRecorder, tally: CrawlTally) -> None:
    """Compare the records with those of the last scrape by their source."""
    changes = tally.changes
    recorder.add_count("records.added", changes["added"], "records", "records whose source was not in the last scrape")
    recorder.add_count(
        "records.changed", changes["changed"], "records", "records whose content differs from that of the last scrape"
    )
    recorder.add_count("records.unchanged", changes["unchanged"], "records", "records with the content of the last scrape")
    recorder.add_count("records.removed", len(tally.previous_ids), "records", "records of the last scrape that this scrape lacks")


def _record_reasons(recorder: audit.MetricRecorder, tally: CrawlTally) -> audit.AuditTable:
    rows: list[list[audit.MetricValue]] = []
    for (state, reason), count in sorted(tally.outcomes.items()):
        if reason:
            if state == "record":  # stale: the only reason of a record
                recorder.add_count(
                    f"records.{reason}", count, "records", "records of the last scrape whose page could not be fetched"
                )
            else:
                recorder.add_count(
                    f"urls.{state}.{reason}", count, "URLs", f"URLs, files and rows {state} for the reason {reason!r}"
                )
            rows.append([state, reason, count, tally.examples[state, reason][:200]])
    columns = ["state", "reason", "urls", "example"]
    return audit.AuditTable("reasons", "URLs that are no record, by state and reason, with the first example", columns, rows)
