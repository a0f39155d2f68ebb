"""What became of every address in, one by one; counts by state and reason, sizes, sources, and what changed since the last scrape out."""

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pandas as pd

from provenlm.core import audit
from provenlm.core.records import Fetch, Record

EDGES = [0, *(1 << power for power in range(6, 23))]  # bytes of text: 0, 64, 128 … 4 MiB
Fate = tuple[str, str]  # state and reason


@dataclass
class Seen:
    """What a scrape notes on the way; nothing of it grows with the bodies. `before`: the last scrape's ids by source, used up."""

    before: dict[str, str]
    fates: Counter[Fate] = field(default_factory=Counter)
    examples: dict[Fate, str] = field(default_factory=dict)
    compared: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    sites: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))  # records, bytes

    def add(self, fetch: Fetch) -> None:
        """Note one address."""
        self.fates[fetch.state, fetch.reason] += 1
        self.examples.setdefault((fetch.state, fetch.reason), fetch.url)
        counts = {
            "tries": fetch.tries,
            "retries": max(0, fetch.tries - 1),
            "unchanged": fetch.status == 304,
            "received": fetch.bytes,
        }
        self.totals.update(counts)
        self.seconds += fetch.seconds
        if fetch.record is not None:
            self._record(fetch.record)

    def _record(self, record: Record) -> None:
        self.sizes.append(len(record.body))
        site = self.sites[record.facts.get("site") or urlsplit(record.source).netloc or record.source]
        site[0], site[1] = site[0] + 1, site[1] + len(record.body)
        last = self.before.pop(record.source, None)
        self.compared["added" if last is None else "same" if last == record.id else "changed"] += 1


def record(said: audit.Recorder, seen: Seen) -> None:
    """All that `seen` noted."""
    addresses, states = seen.fates.total(), Counter[str]()
    for (state, _), count in seen.fates.items():
        states[state] += count
    said.counted("addresses", addresses, "addresses", "addresses seen; each ended in exactly one state")
    said.counted("records", len(seen.sizes), "records", "addresses that became a record")
    said.counted("refused", states["refused"], "addresses", "addresses that were not asked for, or whose answer was not wanted")
    said.counted("failed", states["failed"], "addresses", "addresses that were asked for and not had")
    balance = addresses - len(seen.sizes) - states["refused"] - states["failed"]
    said.counted("balance", balance, "addresses", "addresses - records - refused - failed: anything but 0 is a loss")
    _compared(said, seen)
    reasons = _reasons(said, seen)
    totals, size = seen.totals, sum(seen.sizes)
    said.counted("requests", totals["tries"], "requests", "requests sent for pages (robots.txt and sitemaps not included)")
    said.counted("retries", totals["retries"], "requests", "requests that repeated one before")
    said.counted("unchanged", totals["unchanged"], "records", "pages that had not changed since the last crawl")
    said.counted("bytes_received", totals["received"], "bytes", "bodies received, decompressed")
    said.counted("bytes", size, "bytes", "bodies of all records")
    said.counted("bytes_per_record", round(size / len(seen.sizes), 1), "bytes", "mean size of a record's body")
    said.measured("waiting_seconds", round(seen.seconds, 3), "s", "time spent on requests, pauses included")
    bars = pd.cut(pd.Series(seen.sizes), [*EDGES, float("inf")], right=False).value_counts(sort=False).tolist()
    said.series.append(
        audit.Series(
            "lengths", "bars", "sizes of the records' bodies", "bytes", "records", [*EDGES, EDGES[-1] * 2], {"records": bars}
        )
    )
    rows: list[list[audit.Value]] = [[site, *counts] for site, counts in sorted(seen.sites.items())]
    said.tables.append(audit.Table("sources", "where the records come from", ["source", "records", "bytes"], rows))
    said.tables.append(reasons)


def _compared(said: audit.Recorder, seen: Seen) -> None:
    """Two scrapes by the sources of their records: same source and another id is a change."""
    count = seen.compared
    said.counted("records.added", count["added"], "records", "records whose source the last scrape here did not have")
    said.counted("records.changed", count["changed"], "records", "records whose body is another than at the last scrape here")
    said.counted("records.same", count["same"], "records", "records as they were at the last scrape here")
    said.counted("records.gone", len(seen.before), "records", "records of the last scrape here that this one does not have")


def _reasons(said: audit.Recorder, seen: Seen) -> audit.Table:
    rows: list[list[audit.Value]] = []
    for (state, reason), count in sorted(seen.fates.items()):
        if reason:
            stale = f"records that are {reason}: as they were before"
            meaning = stale if state == "record" else f"addresses {state} because of: {reason}"
            said.counted(f"{state}.{reason}", count, "addresses", meaning)
            rows.append([state, reason, count, seen.examples[state, reason][:200]])
    columns = ["state", "reason", "addresses", "example"]
    return audit.Table("reasons", "why addresses are no records, with the first of each", columns, rows)
