"""Run as a process that a test kills: crawl argv[1] with its state in argv[2], one line of JSON a fate."""

import json
import sys
from pathlib import Path

from provenlm.core.progress import Progress
from provenlm.scraping.crawl import crawl
from provenlm.scraping.fetcher import Manners
from provenlm.scraping.reading import TEXT
from provenlm.scraping.urls import Bounds, Site

url, state = sys.argv[1:]
found = crawl(
    [Site("test", url)],
    Bounds("host", (), (), 1000, 1 << 30, 99),
    Manners("", 0.0, 5.0, 2, 1.0, 1 << 20, ("127.0.0.1",)),
    TEXT,
    Path(state),
    Progress("crawl", "pages", None),
    {},
)
for fetch in found:
    print(json.dumps([fetch.url, fetch.state, fetch.reason, fetch.record.id if fetch.record else None]), flush=True)
