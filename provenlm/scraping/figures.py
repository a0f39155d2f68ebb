"""What became of every address in; counts by state and reason, sizes, sources, and what changed since the last scrape out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from provenlm.core import audit
from provenlm.core.record import Fetch

EDGES = [0, *(1 << power for power in range(6, 23))]  # bytes of text: 0, 64, 128 … 4 MiB


@dataclass
class Seen:
    """What a scrape notes on the way, without the bodies."""

    fetches: list[Fetch] = field(default_factory=list)
    sizes: list[tuple[str, int]] = field(default_factory=list)  # of each record: its site, bytes of its body
    ids: dict[str, str] = field(default_factory=dict)  # source: id


def record(said: audit.Recorder, seen: Seen, before: Mapping[str, str]) -> None:
    """`before`: the id of each record of the last scrape by its source."""
    fetches, sizes = seen.fetches, seen.sizes
    states = Counter(fetch.state for fetch in fetches)
    text = [size for _, size in sizes]
    said.counted("addresses", len(fetches), "addresses", "addresses seen; each ended in exactly one state")
    said.counted("records", len(sizes), "records", "addresses that became a record")
    said.counted("refused", states["refused"], "addresses", "addresses that were not asked for, or whose answer was not wanted")
    said.counted("failed", states["failed"], "addresses", "addresses that were asked for and not had")
    balance = len(fetches) - len(sizes) - states["refused"] - states["failed"]
    said.counted("balance", balance, "addresses", "addresses - records - refused - failed: anything but 0 is a loss")
    _compared(said, seen.ids, before)
    for (state, reason), count in sorted(Counter((fetch.state, fetch.reason) for fetch in fetches if fetch.reason).items()):
        meaning = (
            f"addresses {state} because of: {reason}" if state != "record" else f"records that are {reason}: as they were before"
        )
        said.counted(f"{state}.{reason}", count, "addresses", meaning)
    tries = sum(fetch.tries for fetch in fetches)
    said.counted("requests", tries, "requests", "requests sent for pages (robots.txt and sitemaps not included)")
    said.counted("retries", sum(max(0, fetch.tries - 1) for fetch in fetches), "requests", "requests that repeated one before")
    said.counted(
        "unchanged", sum(fetch.status == 304 for fetch in fetches), "records", "pages that had not changed since the last crawl"
    )
    said.counted("bytes_received", sum(fetch.bytes for fetch in fetches), "bytes", "bodies received, decompressed")
    said.counted("bytes", sum(text), "bytes", "bodies of all records")
    said.counted("bytes_per_record", round(sum(text) / len(text), 1), "bytes", "mean size of a record's body")
    said.measured(
        "waiting_seconds", round(sum(fetch.seconds for fetch in fetches), 3), "s", "time spent on requests, pauses included"
    )
    bars = pd.cut(pd.Series(text), [*EDGES, float("inf")], right=False).value_counts(sort=False).tolist()
    said.series.append(
        audit.Series(
            "lengths", "bars", "sizes of the records' bodies", "bytes", "records", [*EDGES, EDGES[-1] * 2], {"records": bars}
        )
    )
    by_site = pd.DataFrame(sizes, columns=["source", "bytes"]).groupby("source", sort=True)["bytes"].agg(["count", "sum"])
    rows: list[list[audit.Value]] = [[str(site), int(row["count"]), int(row["sum"])] for site, row in by_site.iterrows()]
    said.tables.append(audit.Table("sources", "where the records come from", ["source", "records", "bytes"], rows))


def _compared(said: audit.Recorder, ids: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Two scrapes by the sources of their records: same source and another id is a change."""
    common = ids.keys() & before.keys()
    changed = sum(ids[source] != before[source] for source in common)
    said.counted("records.added", len(ids) - len(common), "records", "records whose source the last scrape here did not have")
    said.counted("records.changed", changed, "records", "records whose body is another than at the last scrape here")
    said.counted("records.same", len(common) - changed, "records", "records as they were at the last scrape here")
    said.counted(
        "records.gone", len(before) - len(common), "records", "records of the last scrape here that this one does not have"
    )
