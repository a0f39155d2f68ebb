"""Crawl argv[2:] with the state in argv[1] and print one JSON line per result; a test kills this process."""

import json
import sys
from pathlib import Path

from provenlm.core.progress import ProgressReporter
from provenlm.scraping.crawl.crawler import crawl
from provenlm.scraping.crawl.fetcher import CrawlPolicy
from provenlm.scraping.crawl.urls import CrawlLimits, Seed
from provenlm.scraping.extraction.text_extractor import TEXT_EXTRACTOR

state, *starts = sys.argv[1:]
limits = CrawlLimits("host", (), (), 100_000, 1 << 30, 9999, 9999)
policy = CrawlPolicy("", 0.0, 30.0, 2, 1.0, 1 << 20, ("127.0.0.1", "127.0.0.2", "127.0.0.3"))
seeds = [Seed(start, start, limits, group) for group, start in enumerate(starts)]
for fetch in crawl(seeds, policy, TEXT_EXTRACTOR, Path(state), ProgressReporter("crawl", "pages", None), {}, False):
    print(json.dumps([fetch.url, fetch.state, fetch.reason, fetch.record.id if fetch.record else None]), flush=True)
