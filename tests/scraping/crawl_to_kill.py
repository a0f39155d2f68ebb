"""Run as a process that a test kills: crawl argv[2:] with its state in argv[1], one line of JSON a fate."""

import json
import sys
from pathlib import Path

from provenlm.core.progress import Progress
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import Manners
from provenlm.scraping.crawl.urls import Bounds, Site
from provenlm.scraping.extraction.reader import TEXT

state, *starts = sys.argv[1:]
bounds = Bounds("host", (), (), 100_000, 1 << 30, 9999, 9999)
manners = Manners("", 0.0, 30.0, 2, 1.0, 1 << 20, ("127.0.0.1", "127.0.0.2", "127.0.0.3"))
sites = [Site(start, start, bounds, group) for group, start in enumerate(starts)]
for fetch in crawl(sites, manners, TEXT, Path(state), Progress("crawl", "pages", None), {}, False):
    print(json.dumps([fetch.url, fetch.state, fetch.reason, fetch.record.id if fetch.record else None]), flush=True)
